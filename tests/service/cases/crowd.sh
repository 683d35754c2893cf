# Clients that misbehave, and users who must not see each other, at the doors of the unit. Each time the others are served.
# units: systemd-logind.service

install_package >/dev/null
user alice
user bob
usermod -aG hyprstream alice
usermod -aG hyprstream bob
cp /checkout/tests/golden/tiny/tiny.gguf /var/lib/hyprstream/models/
systemctl start $UNIT
until_true 20 sh -c 'hyp --no-start models | grep -q "^tiny"'
NAME=org.hyprstream.Daemon1
OBJECT=/org/hyprstream/Daemon1
LONG='{"model": "tiny", "prompt": "one two three", "sampling": {"max_tokens": 4000, "ignore_eos": true}}'
others_are_served() {
    holds "$(as bob hyp --no-start ask -m hyprstream-starter "how do I add a model")" models
    [ "$(property NRestarts)" = 0 ]
}
running() { [ "$(api GET /hyprstream/v1/status | grep -oE '"running": ?[0-9]+' | grep -oE '[0-9]+')" "$1" "$2" ]; }

# hold.py N: a session and N answers, longer than a pipe holds, which nobody reads; they live as long as their owner is on the bus.
cat >/tmp/hold.py <<'PY'
import sys, time
import dbus
bus = dbus.SystemBus()
daemon = dbus.Interface(bus.get_object("org.hyprstream.Daemon1", "/org/hyprstream/Daemon1"), "org.hyprstream.Daemon1")
print(daemon.OpenSession("tiny", dbus.Dictionary({}, signature="sv")))
options = {"max_tokens": dbus.UInt32(1000000), "format": "events", "ignore_eos": True}
answers = [daemon.Generate("tiny", "one two three", options) for _ in range(int(sys.argv[1]))]
print(*(job for _, job in answers), "asked", sep="\n", flush=True)
time.sleep(60)
PY

test_a_flood_of_connections_and_requests() {
    hyp --no-start ask -m tiny hello >/dev/null
    for _ in $(seq 300); do
        as alice curl -sS -o /dev/null --max-time 20 --unix-socket $SOCKET http://localhost/hyprstream/v1/generate \
            -H 'content-type: application/json' -d "$LONG" 2>/dev/null &
    done
    others_are_served
    pkill -u alice curl || true
    wait
    until_true 20 running -eq 0
}

test_a_pipe_that_is_never_read() {
    command -v /usr/bin/python3 && /usr/bin/python3 -c 'import dbus' || skip "python3-dbus is absent"
    as alice /usr/bin/python3 /tmp/hold.py 4 >/tmp/deaf &
    until_true 20 grep -q asked /tmp/deaf
    others_are_served
    # Who leaves the bus takes its jobs along.
    pkill -u alice -f hold.py
    until_true 20 running -eq 0
}

test_one_user_finds_nothing_of_anothers_work() {
    command -v /usr/bin/python3 && /usr/bin/python3 -c 'import dbus' || skip "python3-dbus is absent"
    as alice /usr/bin/python3 /tmp/hold.py 1 >/tmp/busy &
    until_true 20 grep -q asked /tmp/busy
    mapfile -t theirs < <(grep ^/ /tmp/busy)
    all=$(as bob busctl --system call $NAME $OBJECT org.freedesktop.DBus.ObjectManager GetManagedObjects)
    properties() { as bob busctl --system call $NAME "$1" org.freedesktop.DBus.Properties GetAll s "" 2>&1; }
    for path in "${theirs[@]}"; do
        lacks "$all" "$path"
        # The same words as for one that never was.
        said=$(properties "$path") && fail "it was shown: $said"
        never=$(properties "${path%/*}/0123456789abcdef") && fail "it was shown: $never"
        [ "${said//$path/PATH}" = "${never//${path%\/*}\/0123456789abcdef/PATH}" ] || fail "$said / $never"
    done
    job=${theirs[1]##*/}
    lacks "$(as bob hyp --no-start ps --json)" "$job"
    said=$(as bob hyp --no-start cancel "$job" 2>&1) && fail "it was cancelled"
    holds "$said" 'no job'
    lacks "$(property StatusText)" 'running|waiting|request'
    holds "$(as alice hyp --no-start ps --json)" "$job"
    pkill -u alice -f hold.py
    until_true 20 running -eq 0
}
