# Install, use, upgrade, remove, purge.

test_install_starts_the_socket_and_nothing_else() {
    install_package
    systemctl is-active hyprstreamd.socket
    systemctl is-enabled hyprstreamd.socket
    [ "$(systemctl is-active $UNIT)" = inactive ]
    [ "$(stat -c '%U:%a' /var/lib/hyprstream/models)" = hyprstream:755 ]
    [ "$(stat -c '%U:%a' /etc/hyprstream/hyprstreamd.toml)" = root:644 ]
    hyprstreamd --check-config
    for page in man1/hyp.1 man3/libhyprstream.3 man5/hyprstreamd.toml.5 man8/hyprstreamd.8; do [ -f /usr/share/man/$page.gz ]; done
    bash -n /usr/share/bash-completion/completions/hyp
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
