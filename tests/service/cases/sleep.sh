# Suspend: what logind says on the system's bus, behind its own policy.
# units: systemd-logind.service

install_package >/dev/null
user alice
cp /checkout/tests/golden/tiny/tiny.gguf /var/lib/hyprstream/models/
SERVICES=/checkout/tests/clients/bus_services.py
BUS=unix:path=/run/dbus/system_bus_socket
able() { /usr/bin/python3 -c 'import dbus, gi' 2>/dev/null || skip "python3-dbus or python3-gi is absent"; }
lines() { wc -l </tmp/stream; }
grows() { local before; before=$(lines); until_true 10 sh -c "[ \$(wc -l </tmp/stream) -gt $((before + 5)) ]"; }
# How many wait for their word, as the stand-in says.
held() {
    echo held >&3
    sleep 0.2
    [ "$(grep -o '"held": [0-9]*' /tmp/logind | tail -1)" = "\"held\": $1" ]
}

test_logind_is_asked_to_wait() {
    systemctl start $UNIT
    until_true 10 sh -c "busctl --system call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager ListInhibitors |
        grep -q '\"sleep\" \"hyprstream\" .* \"delay\"'"
}

# A machine that sleeps takes its tests along: from here on, a stand-in says what logind would say.
test_before_sleep_work_rests_and_afterwards_it_goes_on() {
    able
    systemctl mask --runtime --now systemd-logind.service
    mkfifo /run/words
    echo '{}' >/tmp/rules
    /usr/bin/python3 $SERVICES $BUS /tmp/rules org.freedesktop.login1 </run/words >/tmp/logind 2>&1 &
    exec 3>/run/words
    until_true 10 grep -q ready /tmp/logind || fail "$(cat /tmp/logind)"
    since=$(now)
    systemctl restart $UNIT
    until_true 10 held 1
    curl -sSN --max-time 60 --unix-socket $SOCKET http://localhost/hyprstream/v1/generate -H 'content-type: application/json' \
        -d '{"model":"tiny","prompt":"Once","sampling":{"ignore_eos":true,"max_tokens":60000}}' >/tmp/stream &
    reader=$!
    until_true 10 grep -q '"token"' /tmp/stream
    # Anybody can send a signal of that name; nothing follows from it.
    as alice busctl --system emit /org/freedesktop/login1 org.freedesktop.login1.Manager PrepareForSleep b true
    sleep 0.3
    grows
    lacks "$(journal "$since")" 'goes to sleep'
    echo sleep >&3
    until_true 10 held 0
    holds "$(journal "$since")" 'goes to sleep'
    lacks "$(journal "$since")" 'did not come to rest'
    # What was computed is out; then nothing comes.
    sleep 0.5
    before=$(lines)
    sleep 1.5
    [ "$(lines)" = "$before" ]
    # The doors are open.
    holds "$(api GET /hyprstream/v1/status)" '^200$'
    echo wake >&3
    grows
    until_true 10 held 1
    holds "$(journal "$since")" 'woke up'
    lacks "$(tail -3 /tmp/stream)" '"error"'
    kill $reader
    hyp --no-start ask hello
}
