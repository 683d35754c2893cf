# A user's own daemon, under the user's own systemd.
# units: systemd-logind.service

install_package
user alice
PLACE=/run/user/$(id -u alice)
loginctl enable-linger alice
until_true 20 test -S "$PLACE/systemd/private"

own() { as alice env XDG_RUNTIME_DIR="$PLACE" DBUS_SESSION_BUS_ADDRESS="unix:path=$PLACE/bus" "$@"; }

test_the_first_request_starts_it() {
    systemctl stop hyprstreamd.socket $UNIT
    own systemctl --user start hyprstreamd.socket
    [ "$(own systemctl --user is-active $UNIT)" = inactive ]
    said=$(own hyp --no-start ask "how do I add a model")
    holds "$said" models
    [ "$(own systemctl --user is-active $UNIT)" = active ]
    until_true 10 own sh -c "systemctl --user show --value -p StatusText $UNIT | grep -q ^ready"
}

test_its_files_are_the_users() {
    [ "$(stat -c '%U:%a' "$PLACE/hyprstream/hyprstream.sock")" = alice:600 ]
    [ "$(stat -c %U /home/alice/.local/state/hyprstream)" = alice ]
    user bob
    refused as bob curl -sS --unix-socket "$PLACE/hyprstream/hyprstream.sock" http://localhost/hyprstream/v1/status
}

# The system's socket comes first, and the first request to it starts the system's daemon.
test_the_variable_of_the_readme_asks_it_beside_the_systems() {
    systemctl start hyprstreamd.socket
    variable=$(sed -n 's/^    \(export HYPRSTREAM_SOCKET=\)/\1/p' /checkout/README.md)
    holds "$variable" XDG_RUNTIME_DIR
    holds "$(own sh -c "$variable; hyp --no-start ask 'how do I add a model'")" models
    [ "$(systemctl is-active $UNIT)" = inactive ]
    own hyp --no-start ask hello
    systemctl is-active $UNIT
    systemctl stop hyprstreamd.socket $UNIT
}

test_it_reloads() {
    as alice mkdir -p /home/alice/.config/hyprstream
    own systemctl --user reload $UNIT
    echo '[runtime' >/home/alice/.config/hyprstream/hyprstreamd.toml
    refused own systemctl --user reload $UNIT
    [ "$(own systemctl --user is-active $UNIT)" = active ]
    rm /home/alice/.config/hyprstream/hyprstreamd.toml
}

test_it_stops() {
    own systemctl --user stop hyprstreamd.socket $UNIT
    [ "$(own systemctl --user show --value -p Result $UNIT)" = success ]
    refused own hyp --no-start status
}
