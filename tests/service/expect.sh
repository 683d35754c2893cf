# What the cases are written in, sourced by them inside the lab. Invariant: a test is a function named test_...; it passes
# when it returns, fails with the first command that fails, and is skipped when it says why.
#
# A case is run as: bash -c 'source expect.sh; source cases/NAME.sh; run_tests cases/NAME.sh'
export LC_ALL=C.UTF-8 SYSTEMD_PAGER='' SYSTEMD_COLORS=0 HOME=/root
cd /

SOCKET=/run/hyprstream/hyprstream.sock
UNIT=hyprstreamd.service
PACKAGE=$(echo /out/hyprstream_*.deb)

fail() {
    echo "$*" >&2
    return 1
}

# until_true SECONDS COMMAND...: waits for a condition.
until_true() {
    local deadline=$(($(date +%s%N) + $1 * 1000000000))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s%N)" -lt $deadline ] || { "$@" || true; fail "not within its time: $*"; return 1; }
        sleep 0.05
    done
}

# holds TEXT PATTERN: an extended regular expression.
holds() { grep -qE -- "$2" <<<"$1" || fail "no match for '$2' in: $1"; }
lacks() { ! grep -qE -- "$2" <<<"$1" || fail "a match for '$2' in: $1"; }

# as USER COMMAND...
as() { setpriv --reuid "$1" --regid "$1" --init-groups env HOME="/home/$1" "${@:2}"; }
user() { id "$1" >/dev/null 2>&1 || useradd --create-home "$1"; }

# refused COMMAND...: it must not work (a plain `!` would never fail a test).
refused() { ! "$@" || fail "it worked, and should not have: $*"; }

property() { systemctl show --value -p "$1" $UNIT; }
pid() { property MainPID; }
# What the service has said since a moment: $(now).
now() { date '+%Y-%m-%d %H:%M:%S.%N'; }
journal() { journalctl --sync && journalctl -u $UNIT -o cat --no-pager "${@:2}" --since "$1"; }

# api METHOD PATH [JSON]: a request over the socket; the body, then the status in a line of its own.
api() {
    local body=()
    [ $# -lt 3 ] || body=(-H 'content-type: application/json' -d "$3")
    curl -sS --max-time 60 --unix-socket $SOCKET -X "$1" "${body[@]}" -w '\n%{http_code}\n' "http://localhost$2"
}

# skip WHY: the test cannot run here. Said loudly at the end, and by tests/run.
skip() {
    trap - ERR
    echo "$*"
    exit 77
}

install_package() { DEBIAN_FRONTEND=noninteractive dpkg -i "$PACKAGE" 2>&1; }

run_tests() {
    local test status said passed=0 failed=0
    # In the order of the file.
    for test in $(grep -oE '^test_[a-z0-9_]+' "$1"); do
        said=/out/said
        # Not in a condition: there, `set -e` would not work.
        set +e
        (set -eE; trap 'echo "failed: $BASH_COMMAND (line $LINENO of ${BASH_SOURCE[0]##*/})" >&2' ERR; "$test") >$said 2>&1
        status=$?
        set -e
        if [ $status = 0 ]; then
            passed=$((passed + 1))
            echo "ok     ${test#test_}"
        elif [ $status = 77 ]; then
            echo "${test#test_}: $(tail -1 $said)" >>/out/skipped
        else
            failed=$((failed + 1))
            echo "FAILED ${test#test_}"
            sed 's/^/    /' $said
        fi
    done
    echo "$passed $failed" >/out/counts
    [ $failed = 0 ]
}
