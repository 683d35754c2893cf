# Too little of something: disk, rights, memory.

install_package
cp /checkout/tests/golden/tiny/tiny.gguf /var/lib/hyprstream/models/
DROP_IN=/run/systemd/system/$UNIT.d/test.conf
mkdir -p "${DROP_IN%/*}"
drop_in() { printf '%s\n' '[Service]' "$@" >"$DROP_IN" && systemctl daemon-reload; }

test_the_memory_limits_of_the_unit_are_in_force() {
    systemctl start $UNIT
    total=$(awk '/^MemTotal:/ {printf "%.0f", $2 * 1024}' /proc/meminfo)
    high=$(property MemoryHigh) max=$(property MemoryMax)
    [[ $high =~ ^[0-9]+$ && $max =~ ^[0-9]+$ ]] || fail "not limited: MemoryHigh=$high, MemoryMax=$max"
    # Shares of the machine: 85% and 95%, to 2% of them.
    near() { (($1 * 100 >= total * $2 * 98 / 100 && $1 * 100 <= total * $2 * 102 / 100)); }
    near "$high" 85 && near "$max" 95 || fail "MemoryHigh=$high, MemoryMax=$max, of $total"
    group=/sys/fs/cgroup/system.slice/$UNIT
    [ -e $group/memory.high ] || skip "MemoryHigh= and MemoryMax= are set; the kernel was not asked whether they are in force, as this machine gives the lab no memory controller"
    for pair in "$high memory.high" "$max memory.max"; do
        # The kernel counts whole pages.
        in_force=$(cat "$group/${pair#* }")
        [ "$in_force" = $((${pair% *} / 4096 * 4096)) ] || fail "${pair#* } is $in_force, not ${pair% *}"
    done
}

test_a_full_disk_for_state_and_cache_costs_no_answer() {
    systemctl start $UNIT
    systemctl stop $UNIT
    for place in state cache; do
        folder=/var/lib/hyprstream
        [ $place = state ] || folder=/var/cache/hyprstream
        mount -t tmpfs -o size=256k,mode=755 tmpfs $folder
        chown hyprstream: $folder
        [ $place = cache ] || install -d -o hyprstream -g hyprstream $folder/models
        # Full to the last byte.
        dd if=/dev/zero of=$folder/filler bs=4k status=none 2>/dev/null || true
    done
    since=$(now)
    hyp --no-start ask -m hyprstream-starter "how do I add a model"
    systemctl is-active $UNIT
    [ "$(property NRestarts)" = 0 ]
    holds "$(journal "$since")" 'private memory'
    lacks "$(journal "$since")" panicked
    systemctl stop $UNIT
    umount /var/lib/hyprstream /var/cache/hyprstream
    hyp --no-start ask -m hyprstream-starter hello
}

test_a_full_disk_for_models_refuses_an_install_and_keeps_nothing_of_it() {
    systemctl stop $UNIT
    mount -t tmpfs -o size=64k,mode=755 tmpfs /var/lib/hyprstream/models
    chown hyprstream: /var/lib/hyprstream/models
    said=$(hyp --no-start install /checkout/tests/golden/tiny/tiny.gguf more 2>&1) && fail "it was installed"
    holds "$said" "disk is full"
    lacks "$said" 'hyp unload'
    [ -z "$(ls -A /var/lib/hyprstream/models)" ]
    hyp --no-start ask -m hyprstream-starter hello
    systemctl stop $UNIT
    umount /var/lib/hyprstream/models
}

test_a_models_folder_that_cannot_be_read_costs_only_its_models() {
    systemctl stop $UNIT
    mkdir -p /srv/secret
    chmod 700 /srv/secret
    printf '%s\n' '[storage]' 'models = ["/var/lib/hyprstream/models", "/srv/secret"]' >/etc/hyprstream/hyprstreamd.d/test.toml
    hyp --no-start ask -m hyprstream-starter hello
    cp /usr/share/hyprstream/starter/hyprstream-starter.gguf /srv/secret/mine.gguf
    lacks "$(hyp --no-start models)" mine
    # As soon as it can be read, its models are there.
    chmod 755 /srv/secret
    chmod 644 /srv/secret/mine.gguf
    until_true 15 sh -c "hyp --no-start models | grep -q mine"
    hyp --no-start ask -m mine hello
    # And a file that cannot be read is named with its reason.
    install -m 000 /checkout/tests/golden/tiny/tiny.gguf /srv/secret/locked.gguf
    until_true 15 sh -c "hyp --no-start models | grep locked | grep -qi broken"
    holds "$(api GET /hyprstream/v1/models/locked)" 'ermission denied'
    hyp --no-start ask -m hyprstream-starter hello
    rm /etc/hyprstream/hyprstreamd.d/test.toml
    systemctl restart $UNIT
}

# systemd 254 and newer hand the service a file to watch; its protocol allows a pipe, on which this test speaks for the kernel.
test_memory_pressure_unloads_what_nobody_uses() {
    mkfifo /run/pressure
    chown hyprstream: /run/pressure
    drop_in 'Environment=MEMORY_PRESSURE_WATCH=/run/pressure'
    systemctl restart $UNIT
    hyp --no-start ask -m hyprstream-starter hello
    since=$(now)
    printf x >/run/pressure
    until_true 10 sh -c "journalctl -u $UNIT --since '$since' -o cat | grep -q 'memory is short: gave back'"
    # Used a moment ago: it stays for now, and answers.
    holds "$(hyp --no-start models)" loaded
    hyp --no-start ask -m hyprstream-starter hello
    sleep 2
    printf x >/run/pressure
    until_true 10 sh -c "hyp --no-start models | grep -q available"
    until_true 5 sh -c "journalctl -u $UNIT --since '$since' -o cat | grep -qE 'unloaded [12] models'"
    hyp --no-start ask -m hyprstream-starter hello
}

test_memory_pressure_leaves_requests_alone() {
    # Read slowly, since a fast machine comes to the end of the context in seconds.
    curl -sSN --limit-rate 50k --max-time 60 --unix-socket $SOCKET http://localhost/hyprstream/v1/generate -H 'content-type: application/json' \
        -d '{"model":"tiny","prompt":"Once","sampling":{"ignore_eos":true,"max_tokens":60000}}' >/tmp/stream &
    reader=$!
    until_true 10 grep -q '"token"' /tmp/stream
    for _ in 1 2; do
        printf x >/run/pressure
        sleep 2.2
    done
    # It goes on.
    lines=$(wc -l </tmp/stream)
    until_true 10 sh -c "[ \$(wc -l </tmp/stream) -gt $((lines + 10)) ]"
    lacks "$(tail -3 /tmp/stream)" '"error"'
    kill $reader
    rm "$DROP_IN"
    systemctl daemon-reload
    systemctl restart $UNIT
}

test_memory_pressure_is_watched_by_the_kernels_trigger() {
    # As systemd 254 and newer prepare it: the unit's own file, writable by the service.
    group=/sys/fs/cgroup/system.slice/$UNIT
    drop_in "Environment=MEMORY_PRESSURE_WATCH=$group/memory.pressure" ProtectControlGroups=no \
        "ExecStartPre=+/bin/chown hyprstream: $group/memory.pressure"
    since=$(now)
    systemctl restart $UNIT
    until_true 5 sh -c "cat /proc/\$(systemctl show --value -p MainPID $UNIT)/task/*/comm | grep -q pressure"
    sleep 1
    lacks "$(journal "$since")" 'memory pressure'
    rm "$DROP_IN"
    systemctl daemon-reload
}

# Older systemd leaves the file to root: there the time spent waiting is read, while a model is loaded.
test_memory_pressure_is_read_where_there_is_no_trigger() {
    stall() { echo "some avg10=0.00 avg60=0.00 avg300=0.00 total=$1" >/run/stall; }
    stall 1000
    drop_in "BindReadOnlyPaths=/run/stall:/sys/fs/cgroup/system.slice/$UNIT/memory.pressure"
    systemctl restart $UNIT
    hyp --no-start ask -m hyprstream-starter hello
    since=$(now)
    sleep 1
    stall 900000
    until_true 15 sh -c "journalctl -u $UNIT --since '$since' -o cat | grep -q 'memory is short'"
    rm "$DROP_IN"
    systemctl daemon-reload
    systemctl restart $UNIT
}

test_folders_elsewhere_work_with_the_drop_in_that_is_named() {
    install -d -o hyprstream -g hyprstream /srv/elsewhere
    printf '%s\n' '[storage]' 'models = "/srv/elsewhere"' >/etc/hyprstream/hyprstreamd.d/test.toml
    systemctl restart $UNIT
    said=$(hyp --no-start install /checkout/tests/golden/tiny/tiny.gguf new 2>&1 || true)
    holds "$said" 'ReadWritePaths=/srv/elsewhere there'
    drop_in 'ReadWritePaths=/srv/elsewhere'
    systemctl restart $UNIT
    hyp --no-start install /checkout/tests/golden/tiny/tiny.gguf new
    [ -f /srv/elsewhere/new.gguf ]
    # A state folder that cannot be used ends the start with the same advice.
    printf '%s\n' '[storage]' 'state = "/srv/state"' >/etc/hyprstream/hyprstreamd.d/test.toml
    install -d -o hyprstream -g hyprstream /srv/state
    since=$(now)
    systemctl restart $UNIT && return 1
    holds "$(journal "$since")" 'ReadWritePaths=/srv/state there'
    rm /etc/hyprstream/hyprstreamd.d/test.toml "$DROP_IN"
    systemctl daemon-reload
    systemctl restart $UNIT
}
