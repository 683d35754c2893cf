# Install, use, upgrade, remove, purge.

test_install_starts_the_socket_and_nothing_else() {
    install_package
    systemctl is-active hyprstreamd.socket
    systemctl is-enabled hyprstreamd.socket
    [ "$(systemctl is-active $UNIT)" = inactive ]
    [ "$(stat -c '%U:%a' /var/lib/hyprstream/models)" = hyprstream:755 ]
    [ "$(stat -c '%U:%a' /etc/hyprstream/hyprstreamd.toml)" = root:644 ]
    [ "$(stat -c '%U:%a' /etc/hyprstream/hyprstreamd.d)" = root:755 ]
    hyprstreamd --check-config
    for page in man1/hyp.1 man3/libhyprstream.3 man5/hyprstreamd.toml.5 man8/hyprstreamd.8; do [ -f /usr/share/man/$page.gz ]; done
}

test_shells_can_read_their_completions() {
    bash -n /usr/share/bash-completion/completions/hyp
    absent=''
    for shell in zsh,/usr/share/zsh/vendor-completions/_hyp fish,/usr/share/fish/vendor_completions.d/hyp.fish; do
        [ -s "${shell#*,}" ]
        if command -v "${shell%%,*}"; then
            "${shell%%,*}" -n "${shell#*,}"
        else
            absent+=" ${shell%%,*}"
        fi
    done
    [ -z "$absent" ] || skip "completions are parsed by all shells but these, which are absent:$absent"
}

# Its README names no file that is elsewhere.
test_the_files_that_its_readme_names_are_there() {
    readme=/usr/share/doc/hyprstream/README.md
    named=$(grep -oE '(/usr/share|/etc|/var/lib)/[a-z./]+' $readme)
    holds "$named" /etc/hyprstream/hyprstreamd.d/
    for path in $named; do [ -e "$path" ] || fail "$path is not there"; done
    [ -d ${readme%/*}/examples ]
}

test_any_user_gets_an_answer_on_first_use() {
    user alice
    said=$(as alice hyp --no-start ask "how do I add a model")
    holds "$said" models
    systemctl is-active $UNIT
    [ "$(stat -c %U /proc/"$(pid)")" = hyprstream ]
}

test_a_c_program_is_built_with_the_library_and_asks() {
    command -v cc && command -v pkg-config || skip "there is no C compiler or no pkg-config"
    # shellcheck disable=SC2046 # flags
    cc -Wall -Wextra -Werror /usr/share/doc/hyprstream/examples/ask.c -o /tmp/ask $(pkg-config --cflags --libs hyprstream) -pthread
    # By the name that stays when the library gets better, from where the package put it.
    holds "$(ldd /tmp/ask)" 'libhyprstream\.so\.0 => (/usr)?/lib/[^/]*-linux-gnu/libhyprstream\.so\.0 '
    user alice
    holds "$(as alice /tmp/ask "how do I add a model")" models
    # The loader's cache was told, and what a package linked to it must depend on is known.
    ldconfig -p | grep 'libhyprstream\.so\.0 ' || fail "the loader's cache does not have it"
    holds "$(cat /var/lib/dpkg/info/hyprstream*.shlibs)" '^libhyprstream 0 hyprstream '
    [ -z "$(dpkg --verify hyprstream)" ] || fail "$(dpkg --verify hyprstream)"
}

test_a_change_of_the_configuration_survives_an_upgrade_that_restarts_it() {
    before=$(pid)
    echo '# mine' >>/etc/hyprstream/hyprstreamd.toml
    until_true 20 grep -q hyprstream-starter /var/lib/hyprstream/catalog
    kept=$(cat /var/lib/hyprstream/catalog)
    install_package
    systemctl is-active $UNIT
    [ "$(pid)" != "$before" ]
    grep -q '# mine' /etc/hyprstream/hyprstreamd.toml
    # The upgrade put a new starter model in place, with an identity of its own; what was known is known.
    grep -qF "$(tail -1 <<<"$kept")" /var/lib/hyprstream/catalog
    hyp --no-start ask hello
}

# Streams under way are told, who comes meanwhile gets an answer, and the new daemon goes on.
test_an_upgrade_under_load_tells_streams_and_refuses_no_connection() {
    install -o hyprstream -g hyprstream -m 644 /checkout/tests/golden/tiny/tiny.gguf /var/lib/hyprstream/models/
    printf '%s\n' '[limits]' 'drain = "200ms"' >/etc/hyprstream/hyprstreamd.d/test.toml
    systemctl restart $UNIT
    until_true 15 hyp --no-start ask -m tiny --max-tokens 2 hello
    before=$(pid)
    # Their alternatives make them last longer than the upgrade.
    for n in 1 2 3 4 5 6; do
        curl -sSN --max-time 60 --unix-socket $SOCKET http://localhost/hyprstream/v1/generate \
            -H 'content-type: application/json' \
            -d '{"model":"tiny","prompt":"Once","sampling":{"ignore_eos":true,"max_tokens":60000,"logprobs":20}}' >/tmp/stream$n &
    done
    for n in 1 2 3 4 5 6; do until_true 10 grep -q '"token"' /tmp/stream$n; done
    rm -f /tmp/upgraded /tmp/answers
    while [ ! -e /tmp/upgraded ]; do
        status=0
        curl -sS --max-time 20 --unix-socket $SOCKET -o /dev/null -w '%{http_code} ' http://localhost/hyprstream/v1/status || status=$?
        echo "exit $status"
    done >/tmp/answers &
    asking=$!
    install_package
    touch /tmp/upgraded
    wait $asking
    [ "$(pid)" != "$before" ]
    # 503 is the daemon that goes; nothing else, and no connection without an answer.
    [ -z "$(grep -vE '^(200|503) exit 0$' /tmp/answers)" ] || fail "$(sort /tmp/answers | uniq -c)"
    [ "$(wc -l </tmp/answers)" -gt 20 ] || fail "too few asked: $(wc -l </tmp/answers)"
    for n in 1 2 3 4 5 6; do
        until_true 20 grep -q '"code":"stopping"' /tmp/stream$n
        holds "$(tail -1 /tmp/stream$n)" '"event":"error".*"retry_ms":[1-9]'
    done
    hyp --no-start ask -m tiny --max-tokens 2 hello
    rm /etc/hyprstream/hyprstreamd.d/test.toml /var/lib/hyprstream/models/tiny.gguf
    systemctl restart $UNIT
}

test_an_upgrade_leaves_a_stopped_service_stopped() {
    systemctl stop $UNIT
    install_package
    [ "$(systemctl is-active $UNIT)" = inactive ]
    systemctl is-active hyprstreamd.socket
}

test_remove_keeps_models_and_configuration() {
    hyp --no-start ask hello
    touch /var/lib/hyprstream/models/mine
    dpkg --remove hyprstream
    [ "$(systemctl is-active $UNIT)" = inactive ]
    [ "$(systemctl is-active hyprstreamd.socket)" = inactive ]
    [ ! -e $SOCKET ]
    [ -e /var/lib/hyprstream/models/mine ]
    [ -e /etc/hyprstream/hyprstreamd.toml ]
    [ ! -e /var/cache/hyprstream ]
}

test_it_can_be_installed_again() {
    install_package
    systemctl is-active hyprstreamd.socket
    hyp --no-start ask hello
}

test_purge_leaves_what_is_on_mounts() {
    folder=/var/lib/hyprstream
    mount -t tmpfs tmpfs $folder/models
    # A folder of the same file system, mounted as well.
    mkdir $folder/elsewhere /srv/kept
    mount --bind /srv/kept $folder/elsewhere
    mkdir $folder/models/deep
    touch $folder/models/mine $folder/models/deep/mine /srv/kept/mine $folder/not-mine
    said=$(dpkg --purge hyprstream 2>&1)
    [ -e $folder/models/mine ]
    [ -e $folder/models/deep/mine ]
    [ -e /srv/kept/mine ]
    [ ! -e $folder/not-mine ]
    [ ! -e /etc/hyprstream ]
    holds "$said" "^hyprstream: $folder/models is a mount; its files stay"
    holds "$said" "^hyprstream: $folder/elsewhere is a mount; its files stay"
    refused dpkg -s hyprstream
    umount $folder/models $folder/elsewhere
    install_package
}

test_an_enabled_service_stays_enabled_and_leaves_no_link() {
    link=/etc/systemd/system/multi-user.target.wants/$UNIT
    [ ! -L $link ]
    systemctl enable $UNIT
    install_package
    [ -L $link ]
    dpkg --purge hyprstream
    [ ! -L $link ]
    # That it was enabled once is forgotten.
    install_package
    [ "$(systemctl is-enabled $UNIT || true)" = disabled ]
}

test_purge_leaves_nothing() {
    dpkg --purge hyprstream
    systemctl daemon-reload
    for path in /var/lib/hyprstream /var/cache/hyprstream /etc/hyprstream /run/hyprstream /usr/share/hyprstream /usr/bin/hyp \
        /usr/include/hyprstream.h; do
        [ ! -e $path ] || fail "$path is still there"
    done
    [ -z "$(find /usr/lib -name 'libhyprstream*' -o -name hyprstream.pc)" ]
    [ -z "$(ldconfig -p | grep hyprstream)" ]
    [ -z "$(find /etc/systemd /var/lib/systemd/deb-systemd-helper-enabled -name '*hyprstream*')" ]
    [ "$(systemctl show --value -p LoadState $UNIT)" = not-found ]
}
