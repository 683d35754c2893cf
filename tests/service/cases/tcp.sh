# The TCP door in the unit: tokens from a credential, and clients that take their time.

install_package >/dev/null
cp /checkout/tests/golden/tiny/tiny.gguf /var/lib/hyprstream/models/
AT=127.0.0.1:11435
STORE=/etc/credstore/hyprstream.tokens
OLD=old-0123456789abcdef NEW=new-0123456789abcdef
printf '%s\n' '[http]' 'header_timeout = "2s"' >/etc/hyprstream/hyprstreamd.d/test.toml
# Only for root: systemd reads it, and the daemon cannot.
tokens() { printf '%s\n' "$@" >$STORE && chmod 600 $STORE; }
# status TOKEN: what HTTP says to it.
status() { curl -sS -o /dev/null -w '%{http_code}' --max-time 10 -H "authorization: Bearer $1" http://$AT/hyprstream/v1/status; }
others_are_served() {
    [ "$(status $NEW)" = 200 ]
    hyp --no-start ask hello
}

# As it stands there, on a fresh install. The door stays open for the tests below.
test_the_recipe_of_the_readme_opens_it() {
    [ ! -e $STORE ]
    recipe=$(sed -n '/^    TOKEN=/,/^$/s/^    //p' /checkout/README.md)
    holds "$recipe" "$AT"
    # The tests are root already.
    sudo() { "$@"; }
    eval "set -o pipefail; $recipe" >/tmp/recipe
    holds "$(tail -1 /tmp/recipe)" '"id": ?"hyprstream-starter"'
    [ "$(stat -c '%U:%a' $STORE)" = root:600 ]
}

test_a_token_of_the_credential_opens_the_door() {
    tokens "laptop $OLD"
    systemctl restart $UNIT
    [ "$(status $OLD)" = 200 ]
    [ "$(status $NEW)" = 401 ]
    [ "$(curl -sS -o /dev/null -w '%{http_code}' http://$AT/hyprstream/v1/status)" = 401 ]
}

# systemd hands a credential over when the service starts, and then no more: hyprstreamd.toml(5) says so.
test_new_tokens_of_a_credential_take_a_restart() {
    tokens "laptop $NEW"
    systemctl reload $UNIT
    case "$(status $OLD) $(status $NEW)" in
    '200 401')
        systemctl restart $UNIT
        ;;
    # With RefreshOnReload=, later systemd may do better.
    '401 200') ;;
    *) fail "the door has neither the old tokens nor the new ones: $(status $OLD) $(status $NEW)" ;;
    esac
    [ "$(status $OLD)" = 401 ]
    [ "$(status $NEW)" = 200 ]
}

test_pages_of_other_sites_are_refused() {
    code() { curl -sS -o /dev/null -w '%{http_code}' --max-time 10 -H "authorization: Bearer $NEW" "$@" http://$AT/v1/models; }
    [ "$(code)" = 200 ]
    [ "$(code -H 'host: evil.example')" = 403 ]
    [ "$(code -H 'origin: http://evil.example')" = 403 ]
    others_are_served
}

test_a_credential_with_a_mistake_is_named_with_its_line() {
    since=$(now)
    tokens "laptop $NEW" 'phone short'
    refused systemctl restart $UNIT
    said=$(journal "$since")
    holds "$said" 'hyprstream.tokens:2: the token is shorter'
    lacks "$said" "$NEW"
    tokens "laptop $NEW"
    systemctl reset-failed $UNIT hyprstreamd.socket
    systemctl start hyprstreamd.socket $UNIT
    others_are_served
}

test_tokens_of_a_file_are_read_again_by_a_reload() {
    rm $STORE
    file=/etc/hyprstream/hyprstream.tokens
    install -o hyprstream -m 600 /dev/stdin $file <<<"laptop $OLD"
    systemctl restart $UNIT
    [ "$(status $OLD)" = 200 ]
    before=$(pid)
    install -o hyprstream -m 600 /dev/stdin $file <<<"laptop $NEW"
    systemctl reload $UNIT
    [ "$(pid)" = "$before" ]
    [ "$(status $OLD)" = 401 ]
    [ "$(status $NEW)" = 200 ]
    # A mistake leaves the old ones.
    install -o hyprstream -m 600 /dev/stdin $file <<<"laptop short"
    refused systemctl reload $UNIT
    [ "$(status $NEW)" = 200 ]
    install -o hyprstream -m 600 /dev/stdin $file <<<"laptop $NEW"
    systemctl reload $UNIT
}

resident() { awk '/VmRSS/ {print $2}' /proc/"$(pid)"/status; }

test_a_gigabyte_of_header_is_not_listened_to() {
    others_are_served
    before=$(resident)
    /usr/bin/python3 - "${AT#*:}" "$NEW" >/tmp/sent <<'END'
import socket, sys
stream = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30)
stream.sendall(b"GET /hyprstream/v1/status HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer " + sys.argv[2].encode() + b"\r\nx-y: ")
piece, sent = b"z" * (1 << 20), 0
try:
    while sent < 1 << 30:
        stream.sendall(piece)
        sent += len(piece)
except OSError:
    pass
print(sent >> 20)
END
    # Some lies in the kernel's buffers.
    [ "$(cat /tmp/sent)" -lt 64 ]
    [ $(($(resident) - before)) -lt 20000 ]
    others_are_served
}

# A body that comes a byte a second never gets anywhere: it is given up after a minute, and holds nobody up meanwhile.
test_a_body_that_takes_its_time_is_given_up() {
    since=$SECONDS
    /usr/bin/python3 - "${AT#*:}" "$NEW" >/tmp/slow <<'END' &
import select, socket, sys, time
stream = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
stream.sendall(
    b"POST /hyprstream/v1/generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n"
    b"authorization: Bearer " + sys.argv[2].encode() + b"\r\n\r\n{"
)
began = time.monotonic()
while time.monotonic() - began < 120:
    if select.select([stream], [], [], 1)[0]:
        print(stream.recv(65536).decode())
        break
    stream.sendall(b" ")
print("after", int(time.monotonic() - began))
END
    slow=$!
    sleep 2
    others_are_served
    wait $slow
    holds "$(cat /tmp/slow)" '^HTTP/1.1 4[0-9][0-9] '
    holds "$(cat /tmp/slow)" 'did not come within'
    [ $((SECONDS - since)) -lt 90 ]
    others_are_served
}
