# The service on the system's bus, behind its fences.

install_package
user alice
busctl() { command busctl --system "$@"; }

test_a_call_starts_it() {
    systemctl stop $UNIT
    holds "$(busctl call org.hyprstream.Daemon1 /org/hyprstream/Daemon1 org.freedesktop.DBus.ObjectManager GetManagedObjects)" 'hyprstream'
    systemctl is-active $UNIT
}

test_reload_by_the_bus_says_what_is_wrong() {
    reload() { busctl call org.hyprstream.Daemon1 /org/hyprstream/Daemon1 org.hyprstream.Daemon1 Reload 2>&1; }
    reload
    echo '[runtime' >/etc/hyprstream/hyprstreamd.d/test.toml
    said=$(reload) && fail "it was taken: $said"
    holds "$said" 'test.toml:1'
    rm /etc/hyprstream/hyprstreamd.d/test.toml
    reload
}

test_it_comes_back_to_a_bus_that_was_restarted() {
    # An answer on its way over the socket goes on meanwhile.
    api POST /hyprstream/v1/generate '{"prompt": "one two", "sampling": {"max_tokens": 2000, "ignore_eos": true}}' >/tmp/answer &
    asked=$!
    systemctl restart dbus.service
    until_true 20 busctl call org.hyprstream.Daemon1 /org/hyprstream/Daemon1 org.freedesktop.DBus.Peer Ping
    [ "$(property NRestarts)" = 0 ]
    wait $asked
    holds "$(tail -3 /tmp/answer)" '"event":"done"'
    hyp --no-start ask hello
}

test_what_is_installed_is_what_runs() {
    for interface in Daemon1 Model1; do [ -f /usr/share/dbus-1/interfaces/org.hyprstream.$interface.xml ]; done
    holds "$(pkaction | grep hyprstream)" 'org.hyprstream.use'
}
