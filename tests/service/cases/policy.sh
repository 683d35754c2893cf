# Who may do what, with polkit itself answering: a user of no group, a member of the group, one who sits at the machine.
# units: systemd-logind.service

install_package >/dev/null
user alice
user bob
user carol
usermod -aG hyprstream carol
RULES=/etc/polkit-1/rules.d/10-test.rules
mkdir -p ${RULES%/*}
NAME=org.hyprstream.Daemon1
there_is_polkit() { [ -x /usr/lib/polkit-1/polkitd ] || skip "polkitd is absent"; }
QUESTION=(busctl --system call $NAME /org/hyprstream/Daemon1 $NAME Complete 'sa(ss)a{sv}' '' 1 user hello 1 max_tokens u 5)
by_bus() { as "$1" "${QUESTION[@]}" 2>&1; }
load() { as "$1" hyp --no-start load hyprstream-starter 2>&1; }
denied() {
    local said
    said=$("${@:2}") && fail "it worked, and should not have: $*: $said"
    holds "$said" "$1"
}

test_a_user_of_no_group_asks_at_the_socket() {
    there_is_polkit
    systemctl start polkit.service
    lacks "$(id -nG alice)" hyprstream
    as alice hyp --no-start ask hello
}

test_without_a_session_the_bus_wants_a_password() {
    there_is_polkit
    denied "may not use .*org.hyprstream.use.*administrator's password" by_bus alice
    # polkit it was that said so.
    systemctl is-active polkit.service
}

test_a_member_of_the_group_asks_by_the_bus() {
    there_is_polkit
    holds "$(by_bus carol)" '^sa\{sv\} "'
    /usr/bin/python3 -c 'import dbus, gi' 2>/dev/null || return 0
    [ -n "$(as carol /usr/bin/python3 /usr/share/doc/hyprstream/examples/desktop.py "how do I add a model")" ]
}

# Who sits at the machine, as a display manager would say it.
test_an_active_session_asks_by_the_bus() {
    there_is_polkit
    begin="systemd-run --quiet --collect --wait --pipe --uid=bob -p PAMName=login -E XDG_SEAT=seat0 -E XDG_SESSION_TYPE=wayland -E XDG_SESSION_CLASS=user"
    active=$($begin sh -c 'loginctl show-session "$XDG_SESSION_ID" -p Active -p Seat' 2>&1) || true
    grep -q '^Active=yes' <<<"$active" && grep -q '^Seat=seat0' <<<"$active" || skip "no session can be had at a seat: ${active//$'\n'/ }"
    holds "$($begin "${QUESTION[@]}" 2>&1)" '^sa\{sv\} "'
    # To change the machine is an administrator's business all the same.
    denied 'org.hyprstream.manage-models' $begin sh -c 'hyp --no-start load hyprstream-starter 2>&1'
}

test_to_change_the_machine_is_for_administrators() {
    there_is_polkit
    for who in alice carol; do
        denied "may not load.*administrator's password" load $who
        denied 'org.hyprstream.configure' as $who curl -sS --fail-with-body -X POST --unix-socket $SOCKET http://localhost/hyprstream/v1/reload
    done
    hyp --no-start load hyprstream-starter
}

test_an_administrators_rule_decides() {
    there_is_polkit
    cat >$RULES <<'END'
polkit.addRule(function(action, subject) {
    if (action.id == "org.hyprstream.manage-models" && subject.user == "alice") return polkit.Result.YES;
    if (action.id == "org.hyprstream.use" && subject.user == "carol") return polkit.Result.NO;
});
END
    chmod 644 $RULES
    until_true 20 load alice
    denied 'polkit does not allow it' by_bus carol
    denied 'may not load' load carol
    rm $RULES
    until_true 20 by_bus carol
    denied 'may not load' load alice
}

test_without_polkit_everybody_uses_and_nobody_changes() {
    systemctl mask --runtime --now polkit.service
    until_true 10 by_bus alice
    denied 'without polkit' load alice
    hyp --no-start load hyprstream-starter
    systemctl unmask --runtime polkit.service
}
