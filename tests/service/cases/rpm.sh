# Install, use, upgrade and remove the .rpm. Invariant: its scriptlets run in a real systemd; what it depends on cannot be looked
# at, since Debian's rpm knows of no other package.

FIRST=$(echo /out/hyprstream-*.rpm)
NEXT=/out/next.rpm
rpm() { command rpm --dbpath /var/lib/rpm "$@"; }
# A scriptlet that fails is a warning to rpm.
quietly() {
    local said
    said=$("$@" 2>&1) || fail "$said"
    lacks "$said" '[Ww]arning|[Ee]rror|[Ff]ailed'
}
is_there() {
    type -P rpm >/dev/null || skip "rpm is absent"
    [ -f "$FIRST" ] || skip "there is no .rpm: packaging/build --only rpm"
}

test_install_starts_the_socket_and_nothing_else() {
    is_there
    quietly rpm -i --nodeps "$FIRST"
    systemctl is-active hyprstreamd.socket
    systemctl is-enabled hyprstreamd.socket
    [ "$(systemctl is-active $UNIT)" = inactive ]
    [ "$(stat -c '%U:%a' /var/lib/hyprstream/models)" = hyprstream:755 ]
    [ "$(stat -c '%U:%a' /etc/hyprstream/hyprstreamd.toml)" = root:644 ]
    [ "$(stat -c '%U:%a' /etc/hyprstream/hyprstreamd.d)" = root:755 ]
    [ "$(systemctl is-enabled $UNIT || true)" = disabled ]
    # Every file is there as it was packed, root's, and nobody else may change it.
    [ -z "$(rpm -V --nodeps hyprstream)" ] || fail "$(rpm -V --nodeps hyprstream)"
    rpm -ql hyprstream >/tmp/files
    [ "$(wc -l </tmp/files)" -gt 30 ]
    while read -r file; do [ "$(stat -c %U:%G "$file")" = root:root ] && [ -z "$(find "$file" -perm /022)" ]; done </tmp/files
}

test_any_user_gets_an_answer_on_first_use() {
    is_there
    user alice
    holds "$(as alice hyp --no-start ask "how do I add a model")" models
    [ "$(stat -c %U /proc/"$(pid)")" = hyprstream ]
    holds "$(busctl --system call org.hyprstream.Daemon1 /org/hyprstream/Daemon1 org.freedesktop.DBus.Peer Ping 2>&1 || echo no)" '^$'
}

test_a_c_program_is_built_with_the_library_and_asks() {
    is_there
    command -v cc && command -v pkg-config || skip "there is no C compiler or no pkg-config"
    [ "$(readlink -f /usr/lib64/libhyprstream.so)" = "$(echo /usr/lib64/libhyprstream.so.0.*)" ]
    # Where the folder of libraries is another one, both linker and loader must be told.
    export PKG_CONFIG_PATH=/usr/lib64/pkgconfig
    # shellcheck disable=SC2046 # flags
    cc /usr/share/doc/hyprstream/examples/ask.c -o /tmp/ask $(pkg-config --cflags --libs hyprstream) -pthread
    holds "$(LD_LIBRARY_PATH=/usr/lib64 /tmp/ask "how do I add a model")" models
}

test_an_upgrade_restarts_it_and_keeps_the_configuration() {
    is_there
    [ -f $NEXT ] || skip "the next .rpm could not be made: $(tail -1 /out/next.log)"
    before=$(pid)
    echo '# mine' >>/etc/hyprstream/hyprstreamd.toml
    quietly rpm -U --nodeps $NEXT
    [ "$(rpm -q --qf '%{RELEASE}' hyprstream)" = 2 ]
    systemctl is-active $UNIT
    [ "$(pid)" != "$before" ]
    systemctl is-enabled hyprstreamd.socket
    grep -q '# mine' /etc/hyprstream/hyprstreamd.toml
    # That file alone is another one.
    [ "$(rpm -V --nodeps hyprstream | awk '{print $NF}')" = /etc/hyprstream/hyprstreamd.toml ]
    [ -e /usr/lib64/libhyprstream.so.0 ]
    [ -e /usr/lib64/libhyprstream.so ]
    hyp --no-start ask hello
}

test_an_upgrade_leaves_a_stopped_service_stopped() {
    is_there
    systemctl stop $UNIT
    quietly rpm -U --nodeps --oldpackage "$FIRST"
    [ "$(systemctl is-active $UNIT)" = inactive ]
    systemctl is-active hyprstreamd.socket
}

test_remove_keeps_models_and_what_was_changed() {
    is_there
    hyp --no-start ask hello
    touch /var/lib/hyprstream/models/mine
    # Of rpm's warnings, the one about the changed configuration is due.
    said=$(rpm -e --nodeps hyprstream 2>&1)
    lacks "$said" '[Ee]rror|[Ff]ailed'
    [ "$(systemctl is-active $UNIT)" = inactive ]
    [ "$(systemctl is-active hyprstreamd.socket)" = inactive ]
    [ ! -e $SOCKET ]
    [ -e /var/lib/hyprstream/models/mine ]
    grep -q '# mine' /etc/hyprstream/hyprstreamd.toml.rpmsave
    [ ! -e /var/cache/hyprstream ]
    [ ! -e /etc/hyprstream/hyprstreamd.d ]
    while read -r file; do [ ! -e "$file" ] || fail "$file is still there"; done </tmp/files
    [ -z "$(find /usr/lib64/ -name 'libhyprstream*')" ]
    [ -z "$(find /etc/systemd -name '*hyprstream*')" ]
    systemctl daemon-reload
    [ "$(systemctl show --value -p LoadState $UNIT)" = not-found ]
}
