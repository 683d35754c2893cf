# Readiness, status lines, watchdog, reload, stop and restart.

install_package
user alice
DROP_IN=/run/systemd/system/$UNIT.d/test.conf
MAIN=/etc/hyprstream/hyprstreamd.d/test.toml
mkdir -p "${DROP_IN%/*}" "${MAIN%/*}"

cp /checkout/tests/golden/tiny/tiny.gguf /var/lib/hyprstream/models/
configure() { printf '%s\n' "$@" >$MAIN; }
drop_in() { printf '%s\n' '[Service]' "$@" >"$DROP_IN" && systemctl daemon-reload; }
status_is() { grep -qE "$1" <<<"$(property StatusText)"; }
# A story that is told until its reader goes. To be run in the background.
endless() {
    exec curl -sSN --max-time 60 --unix-socket $SOCKET http://localhost/hyprstream/v1/generate -H 'content-type: application/json' \
        -d '{"model":"tiny","prompt":"Once","sampling":{"ignore_eos":true,"max_tokens":'"${1:-60000}"'}}'
}
restarts() { property NRestarts; }

test_start_means_ready() {
    began=$(date +%s%N)
    systemctl start $UNIT
    echo "ready after $((($(date +%s%N) - began) / 1000000)) ms" >>/out/numbers
    until_true 10 status_is '^ready; models: 2$'
    holds "$(api GET /hyprstream/v1/status)" '"state":"ready'
}

test_status_tells_what_it_does() {
    hyp --no-start load hyprstream-starter
    until_true 5 status_is 'loaded: hyprstream-starter'
    endless >/tmp/stream &
    reader=$!
    until_true 10 status_is '^at work'
    kill $reader
    until_true 10 status_is '^ready'
}

test_what_root_left_in_its_folders_becomes_its_own() {
    systemctl stop $UNIT
    # As root would: a daemon by hand, which writes its state and packed weights.
    env -i HOME=/root /usr/bin/hyprstreamd --socket /tmp/by-hand.sock >/tmp/by-hand 2>&1 &
    by_hand=$!
    until_true 10 test -S /tmp/by-hand.sock
    hyp --socket /tmp/by-hand.sock --no-start load hyprstream-starter
    kill $by_hand
    wait $by_hand || true
    chown -R root: /var/lib/hyprstream /var/cache/hyprstream
    chown hyprstream: /var/lib/hyprstream /var/cache/hyprstream
    systemctl start $UNIT
    [ -z "$(find /var/lib/hyprstream /var/cache/hyprstream ! -user hyprstream)" ]
}

test_first_use_starts_it() {
    systemctl stop $UNIT
    began=$(date +%s%N)
    holds "$(api GET /hyprstream/v1/status)" '^200$'
    echo "first connection answered after $((($(date +%s%N) - began) / 1000000)) ms" >>/out/numbers
}

test_reload_is_over_when_it_returns() {
    configure '[generation]' 'max_tokens = 3'
    before=$(pid)
    systemctl reload $UNIT
    [ "$(pid)" = "$before" ]
    # The very next request has the new setting.
    holds "$(api POST /hyprstream/v1/generate '{"prompt":"Once upon a time"}')" '"completion_tokens":3'
    [ "$(systemctl is-active $UNIT)" = active ]
}

test_reload_names_what_waits_for_a_restart() {
    since=$(now)
    configure '[runtime]' 'threads = 1'
    systemctl reload $UNIT
    holds "$(journal "$since")" 'wait for a restart: runtime.threads'
    configure
    systemctl reload $UNIT
}

test_reload_of_a_broken_configuration_fails_and_changes_nothing() {
    configure '[generation]' 'max_tokens = 4'
    systemctl reload $UNIT
    since=$(now)
    configure '[generation]' 'max_tokens = 5' 'temprature = 1'
    refused systemctl reload $UNIT
    holds "$(journal "$since")" 'test.toml:3:1: unknown key .generation.temprature'
    [ "$(systemctl is-active $UNIT)" = active ]
    holds "$(api POST /hyprstream/v1/generate '{"prompt":"Once upon a time"}')" '"completion_tokens":4'
    # systemd's own signal says the same.
    since=$(now)
    kill -HUP "$(pid)"
    until_true 5 status_is 'could not be read again: .*test.toml:3:1'
    holds "$(journal "$since")" 'is as it was'
    [ "$(systemctl is-active $UNIT)" = active ]
    configure
    systemctl reload $UNIT
    until_true 5 status_is '^ready'
}

test_reload_is_for_the_administrator() {
    said=$(as alice curl -sS -X POST --unix-socket $SOCKET -w '\n%{http_code}\n' http://localhost/hyprstream/v1/reload)
    holds "$said" '"denied"'
    holds "$said" '^403$'
}

test_a_stop_lets_requests_end() {
    endless 400 >/tmp/stream &
    reader=$!
    until_true 10 grep -q '"token"' /tmp/stream
    since=$(now)
    systemctl stop $UNIT
    wait $reader
    holds "$(tail -1 /tmp/stream)" '"event":"done"'
    lacks "$(journal "$since")" 'cut off'
    [ "$(property Result)" = success ]
}

test_a_stop_cuts_off_what_takes_too_long_with_an_error_that_says_try_again() {
    configure '[limits]' 'drain = "300ms"'
    endless >/tmp/stream &
    reader=$!
    until_true 10 grep -q '"token"' /tmp/stream
    systemctl stop $UNIT
    wait $reader || true
    last=$(tail -1 /tmp/stream)
    holds "$last" '"event":"error"'
    holds "$last" '"code":"stopping"'
    holds "$last" '"retry_ms":[0-9]+'
    [ "$(property Result)" = success ]
    configure
}

test_who_comes_during_a_restart_waits_for_the_next_daemon() {
    configure '[limits]' 'drain = "2s"'
    systemctl start $UNIT
    endless >/tmp/stream &
    reader=$!
    until_true 10 grep -q '"token"' /tmp/stream
    before=$(pid)
    systemctl restart --no-block $UNIT
    until_true 5 status_is '^stopping'
    # Asked of the old one, answered by the new one: neither refused nor told to come back.
    said=$(api POST /hyprstream/v1/generate '{"prompt":"Once upon a time","sampling":{"max_tokens":2}}')
    holds "$said" '^200$'
    holds "$said" '"completion_tokens":2'
    [ "$(pid)" != "$before" ]
    wait $reader || true
    configure
    systemctl reload $UNIT
}

test_killed_under_load_it_comes_back_and_nobody_is_refused() {
    until_true 20 sh -c "curl -sS --unix-socket $SOCKET http://localhost/hyprstream/v1/models/hyprstream-starter | grep -qE '\"digest\":\"[0-9a-f]{64}'"
    # A digest that nothing computes: after the kill, only what was remembered gives it.
    systemctl stop $UNIT
    mark=$(printf '5%.0s' {1..64})
    sed -i -E "/\"name\":\"hyprstream-starter\"/ s/^([0-9a-f]{64}) [0-9a-f]{64} /\1 $mark /" /var/lib/hyprstream/catalog
    kept=$(grep -F '"name":"hyprstream-starter"' /var/lib/hyprstream/catalog)
    holds "$kept" "^[0-9a-f]{64} $mark "
    systemctl start $UNIT
    count=$(restarts)
    for _ in 1 2 3; do endless >/dev/null 2>&1 & done
    sleep 0.3
    # Connects all the time, and counts who is sent away.
    (
        end=$(($(date +%s) + 4))
        while [ "$(date +%s)" -lt $end ]; do
            status=0
            curl -sS --max-time 10 --unix-socket $SOCKET -o /dev/null http://localhost/hyprstream/v1/status || status=$?
            echo "exit $status"
        done >/tmp/exits
    ) &
    counting=$!
    sleep 0.5
    kill -KILL "$(pid)"
    until_true 10 sh -c "[ \"\$(systemctl show --value -p NRestarts $UNIT)\" -gt $count ] && systemctl is-active $UNIT"
    wait $counting
    # Cut off by the kill (52, 56: no answer, or half of one); never refused (7), and most are answered.
    [ -z "$(grep -vE '^exit (0|52|56)$' /tmp/exits)" ] || fail "$(sort /tmp/exits | uniq -c)"
    [ "$(grep -c '^exit 0$' /tmp/exits)" -gt 10 ] || fail "$(sort /tmp/exits | uniq -c)"
    grep -qF "$kept" /var/lib/hyprstream/catalog
    holds "$(api GET /hyprstream/v1/models/hyprstream-starter)" "\"digest\":\"$mark\""
    hyp --no-start ask hello
}

# Stops one thread of the daemon for as long as the debugger holds it: the others go on.
hold_thread() {
    local task
    for task in /proc/"$(pid)"/task/*; do
        if [ "$(cat "$task/comm")" = "$1" ]; then
            exec python3 - "${task##*/}" <<'HOLD'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
task = int(sys.argv[1])
PTRACE_ATTACH, WALL = 16, 0x40000000
if libc.ptrace(PTRACE_ATTACH, task, 0, 0) != 0:
    sys.exit("ptrace: " + os.strerror(ctypes.get_errno()))
os.waitpid(task, WALL)
print("held", flush=True)
# Until it is killed: its end must be taken note of, or the process is not over.
os.waitpid(task, WALL)
HOLD
        fi
    done
}

test_a_stuck_engine_is_restarted_and_an_idle_one_is_not() {
    drop_in WatchdogSec=2 TimeoutAbortSec=2
    systemctl restart $UNIT
    count=$(restarts)
    since=$(now)
    # Idle for twice the limit.
    sleep 4.5
    [ "$(restarts)" = "$count" ]
    hold_thread engine >/tmp/held &
    holding=$!
    until_true 5 grep -q held /tmp/held
    # The doors still answer: only the engine is stuck.
    holds "$(api GET /hyprstream/v1/status)" '^200$'
    until_true 15 sh -c "[ \"\$(systemctl show --value -p NRestarts $UNIT)\" -gt $count ]"
    wait $holding
    holds "$(journalctl -u $UNIT --since "$since" -o cat)" 'Watchdog timeout'
    until_true 10 hyp --no-start ask hello
}

test_a_stopped_process_is_restarted_too() {
    count=$(restarts)
    kill -STOP "$(pid)"
    until_true 15 sh -c "[ \"\$(systemctl show --value -p NRestarts $UNIT)\" -gt $count ]"
    hyp --no-start ask hello
    rm "$DROP_IN"
    systemctl daemon-reload
    systemctl restart $UNIT
}

test_a_wrong_configuration_does_not_start_and_is_not_tried_again() {
    configure '[runtime]' 'threads = "many"'
    since=$(now)
    systemctl stop $UNIT
    refused systemctl start $UNIT
    holds "$(journal "$since")" 'test.toml:2:11'
    sleep 1
    [ "$(systemctl is-failed $UNIT)" = failed ]
    [ "$(property ExecMainStatus)" = 1 ]
    # Who asks meanwhile is told, does not have it started again and again, and the socket stays.
    systemctl reset-failed $UNIT
    for _ in 1 2 3; do
        refused hyp --no-start ask hello >/tmp/said 2>&1
        holds "$(cat /tmp/said)" 'hyprstreamd cannot start; `systemctl status hyprstreamd`'
    done
    [ "$(systemctl is-active hyprstreamd.socket)" = active ]
    [ "$(journal "$since" | grep -c 'test.toml:2:11')" -le 8 ] || fail 'started again and again'
    configure
    hyp --no-start ask hello
}

# Each thread with how often it was switched to; what has ended meanwhile does not count.
wakes() {
    local task
    for task in /proc/"$(pid)"/task/*; do
        echo "${task##*/} $(awk '/ctxt_switches/ {n += $2} END {print n}' "$task/status")"
    done | sort
}

test_idle_it_is_small_and_sleeps() {
    systemctl restart $UNIT
    hyp --no-start status >/dev/null
    sleep 3
    wakes >/tmp/before
    sleep 40
    wakes >/tmp/after
    count=$(join /tmp/before /tmp/after | awk '{n += $3 - $2} END {print n + 0}')
    resident=$(awk '/VmRSS/ {print $2}' /proc/"$(pid)"/status)
    echo "idle: $resident kB resident, $count wake-ups of $(wc -l </tmp/after) threads in 40 s" >>/out/numbers
    join /tmp/before /tmp/after
    # The watchdog's question and the engine's answer, twice a minute, are all.
    [ "$resident" -lt 15000 ]
    [ "$count" -le 8 ]
}

test_many_requests_that_end_leave_it_asleep() {
    for _ in 1 2 3; do hyp --no-start ask hello; done
    sleep 2
    wakes >/tmp/before
    sleep 10
    wakes >/tmp/after
    count=$(join /tmp/before /tmp/after | awk '{n += $3 - $2} END {print n + 0}')
    # A model is loaded: where systemd gives no trigger, the time spent waiting for memory is looked at every 5 s.
    [ "$count" -le 12 ] || fail "$count wake-ups in 10 s"
}
