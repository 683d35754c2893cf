# Memory that is really short, as the kernel alone tells it.

install_package >/dev/null
cp /checkout/tests/golden/tiny/tiny.gguf /var/lib/hyprstream/models/

LIMITS=/run/memory-controller
# The lab does not end what it has of the first version's groups.
leave() {
    local process
    kill $hog $reader 2>/dev/null || true # both may be gone
    for process in $(cat "$tight/cgroup.procs"); do echo "$process" >$LIMITS/cgroup.procs || true; done
    until_true 5 rmdir "$tight"
    umount $LIMITS
    rm -f /out/large
}

# Real pressure: a program in the unit holds most of what its group may have, and writes a file that does not fit into the rest, so
# that it waits for memory half of its time. Nothing tells the daemon but the kernel, by the unit's memory.pressure.
test_real_pressure_makes_it_give_back_and_it_goes_on() {
    mkdir -p $LIMITS
    mount -t cgroup -o memory cgroup $LIMITS || skip "no memory controller of version 1 can be had, by which the lab limits memory"
    tight=$LIMITS/lab-$(cat /etc/machine-id) hog='' reader=''
    mkdir "$tight"
    trap leave EXIT
    echo 64M >"$tight/memory.limit_in_bytes"
    systemctl restart $UNIT
    hyp --no-start ask -m hyprstream-starter hello
    until_true 15 sh -c "hyp --no-start models | grep -q tiny"
    curl -sSN --max-time 100 --unix-socket $SOCKET http://localhost/hyprstream/v1/generate -H 'content-type: application/json' \
        -d '{"model":"tiny","prompt":"Once","sampling":{"ignore_eos":true,"max_tokens":60000}}' >/tmp/stream &
    reader=$!
    until_true 10 grep -q '"token"' /tmp/stream
    before=$(pid)
    since=$(now)
    (
        echo $BASHPID >"$tight/cgroup.procs"
        echo $BASHPID >/sys/fs/cgroup/system.slice/$UNIT/cgroup.procs
        exec /usr/bin/python3 - <<'END'
import time
held = bytearray(40 << 20)
for at in range(0, len(held), 4096):
    held[at] = 1
end = time.monotonic() + 90
with open("/out/large", "wb", buffering=0) as file:
    while time.monotonic() < end:
        file.seek(0)
        for _ in range(64):
            file.write(bytes(1 << 20))
END
    ) &
    hog=$!
    # First caches, then, when it comes again, models that nobody uses; the one that is asked stays.
    until_true 40 sh -c "journalctl -u $UNIT --since '$since' -o cat | grep -q 'memory is short: gave back'"
    until_true 40 sh -c "journalctl -u $UNIT --since '$since' -o cat | grep -qE 'unloaded [1-9] models'"
    holds "$(hyp --no-start models | grep starter)" available
    hyp --no-start ask -m hyprstream-starter hello
    lacks "$(tail -3 /tmp/stream)" '"error"'
    [ "$(pid)" = "$before" ]
    [ "$(property NRestarts)" = 0 ]
    kill $hog
    wait $hog || true
    # When there is enough again, it is left alone.
    sleep 6
    since=$(now)
    sleep 6
    lacks "$(journal "$since")" 'memory is short'
}
