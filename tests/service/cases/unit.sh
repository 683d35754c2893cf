# The unit as it stands: fences, folders, identity, instruction set.

install_package >/dev/null

test_exposure_is_at_most_1_5() {
    # The threshold is in tenths; it fails above.
    systemd-analyze security --offline=true --threshold=15 /usr/lib/systemd/system/$UNIT
}

test_exposure_with_accelerators_is_at_most_2() {
    mkdir -p /tmp/u/$UNIT.d
    cp /usr/lib/systemd/system/$UNIT /tmp/u/
    cp /usr/share/hyprstream/systemd/gpu.conf /tmp/u/$UNIT.d/
    systemd-analyze security --offline=true --threshold=20 /tmp/u/$UNIT
}

test_systemd_has_nothing_to_remark() {
    said=$(systemd-analyze verify /usr/lib/systemd/system/hyprstreamd.{service,socket} /usr/lib/systemd/user/hyprstreamd.{service,socket} 2>&1)
    lacks "$said" hyprstream
}

# From 253 on, systemd itself asks for a reload. Older ones know no such type; what else the drop-in says is tried there.
test_the_notify_reload_drop_in() {
    version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    mkdir -p /tmp/n/$UNIT.d /etc/systemd/system/$UNIT.d
    cp /usr/lib/systemd/system/$UNIT /tmp/n/
    cp /usr/share/hyprstream/systemd/notify-reload.conf /tmp/n/$UNIT.d/
    said=$(systemd-analyze verify /tmp/n/$UNIT 2>&1 | grep -F notify-reload.conf || true)
    [ "$version" -ge 253 ] || said=$(grep -v 'Failed to parse service type, ignoring: notify-reload' <<<"$said" || true)
    [ -z "$said" ] || fail "$said"
    cp /usr/share/hyprstream/systemd/notify-reload.conf /etc/systemd/system/$UNIT.d/
    systemctl daemon-reload
    systemctl restart $UNIT
    # One command, which refuses a broken configuration before the daemon hears of it.
    [ "$(property ExecReload | grep -o 'argv\[\]=[^;]*')" = 'argv[]=/usr/bin/hyprstreamd --check-config ' ]
    since=$(now)
    before=$(pid)
    systemctl reload $UNIT
    echo '[runtime' >/etc/hyprstream/hyprstreamd.d/test.toml
    refused systemctl reload $UNIT
    rm /etc/hyprstream/hyprstreamd.d/test.toml
    holds "$(journal "$since")" 'test.toml:1'
    [ "$(pid)" = "$before" ]
    [ "$(systemctl is-active $UNIT)" = active ]
    kind=$(property Type)
    printf '%s\n' '[generation]' 'max_tokens = 3' >/etc/hyprstream/hyprstreamd.d/test.toml
    systemctl reload $UNIT
    answer=$(api POST /hyprstream/v1/generate '{"prompt":"Once upon a time"}')
    rm /etc/hyprstream/hyprstreamd.d/test.toml /etc/systemd/system/$UNIT.d/notify-reload.conf
    systemctl daemon-reload
    systemctl restart $UNIT
    [ "$version" -ge 253 ] || skip "systemd $version has no Type=notify-reload (253 and newer): only its checks and its ExecReload= were tried"
    [ "$kind" = notify-reload ]
    holds "$answer" '"completion_tokens":3'
}

test_it_starts_with_the_processors_best_instructions() {
    systemctl start $UNIT
    best=$(env -i /usr/bin/hyprstreamd --user --socket /tmp/own.sock --state /tmp/own --cache /tmp/own --idle-exit 5s --models /tmp/own >/dev/null 2>&1 &
        until_true 10 test -S /tmp/own.sock
        curl -sS --unix-socket /tmp/own.sock http://localhost/hyprstream/v1/status | grep -oE '"isa":"[^"]*"')
    fenced=$(api GET /hyprstream/v1/status | grep -oE '"isa":"[^"]*"')
    [ -n "$best" ]
    [ "$best" = "$fenced" ]
}

test_the_budget_follows_the_machine() {
    total=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo) * 1024))
    budget=$(api GET /hyprstream/v1/status | grep -oE '"budget":[0-9]+' | grep -oE '[0-9]+')
    # 75% of the machine's memory, or of what MemoryMax= leaves of it.
    [ $((budget * 100 / total)) -ge 70 ]
    [ $((budget * 100 / total)) -le 75 ]
}

test_callers_are_told_apart() {
    user alice
    since=$(now)
    as alice hyp --no-start ask hello
    said=$(journal "$since" -o json)
    holds "$said" "\"HYPR_UID\":\"$(id -u alice)\""
    # Never a prompt or an answer.
    lacks "$said" 'starter model of hyprstream'
}

test_a_request_is_found_in_the_journal_by_its_model() {
    since=$(now)
    hyp --no-start ask hello
    until_true 5 journalctl -q -u $UNIT --since "$since" HYPR_MODEL=hyprstream-starter --grep done
}

test_it_sees_no_devices_and_writes_only_its_folders() {
    inside=$(nsenter -t "$(pid)" -m ls /dev)
    lacks "$inside" nvidia
    nsenter -t "$(pid)" -m setpriv --reuid hyprstream --regid hyprstream --clear-groups bash -e -c '
        touch /var/lib/hyprstream/x /var/cache/hyprstream/x && rm /var/lib/hyprstream/x /var/cache/hyprstream/x
        ! touch /etc/hyprstream/x 2>/dev/null && ! touch /usr/x 2>/dev/null && ! ls /home/alice 2>/dev/null'
    [ "$(property RestrictNamespaces)" = yes ]
    [ "$(sed -n 's/^CapBnd:\s*//p' /proc/"$(pid)"/status)" = 0000000000000000 ]
    [ "$(sed -n 's/^Seccomp:\s*//p' /proc/"$(pid)"/status)" = 2 ]
}

test_with_the_accelerators_profile_it_sees_them() {
    mkdir -p /etc/systemd/system/$UNIT.d
    cp /usr/share/hyprstream/systemd/gpu.conf /etc/systemd/system/$UNIT.d/
    systemctl daemon-reload
    systemctl restart $UNIT
    nsenter -t "$(pid)" -m ls -l /dev/nvidia0 /dev/nvidiactl
    hyp --no-start ask hello
    rm /etc/systemd/system/$UNIT.d/gpu.conf
    systemctl daemon-reload
    systemctl restart $UNIT
}

test_the_socket_can_be_for_a_group_alone() {
    user alice
    user carol
    usermod -aG hyprstream carol
    mkdir -p /etc/systemd/system/hyprstreamd.socket.d
    cp /usr/share/hyprstream/systemd/group-only.conf /etc/systemd/system/hyprstreamd.socket.d/
    systemctl daemon-reload
    systemctl stop $UNIT
    systemctl restart hyprstreamd.socket
    as carol hyp --no-start ask hello
    refused as alice hyp --no-start ask hello
    rm -r /etc/systemd/system/hyprstreamd.socket.d
    systemctl daemon-reload
    systemctl stop $UNIT
    systemctl restart hyprstreamd.socket
    as alice hyp --no-start ask hello
}

test_tokens_come_as_a_credential() {
    mkdir -p /etc/credstore
    echo 'test secret' >/etc/credstore/hyprstream.tokens
    chmod 600 /etc/credstore/hyprstream.tokens
    systemctl restart $UNIT
    file=/run/credentials/$UNIT/hyprstream.tokens
    [ "$(nsenter -t "$(pid)" -m cat $file)" = 'test secret' ]
    nsenter -t "$(pid)" -m setpriv --reuid hyprstream --regid hyprstream --clear-groups cat $file
    refused as alice cat $file
}
