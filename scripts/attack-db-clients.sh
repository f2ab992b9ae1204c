#!/usr/bin/env bash
# Bad days of a database's clients, against one node of its own: ten thousand idle
# connections, a COPY of 1 GiB in and out, statements that never end, clients that
# begin a transaction and go away. Says what happened to them and to others.
#
#   scripts/attack-db-clients.sh [idle [N] | copy [MiB] | endless | gone]...
#   RUNG_BIN=DIR                 programs to run (target/release, or target/debug)
set -euo pipefail
cd "$(dirname "$0")/.."

bin=${RUNG_BIN:-target/release}
[ -x "$bin/rungd" ] || bin=target/debug
[ -x "$bin/rungd" ] || { echo "attack: build first: cargo build --release" >&2; exit 1; }
dir=$(mktemp -d "${TMPDIR:-/tmp}/rung-attack-XXXXXX")
pid=
cleanup() {
    if [ -n "$pid" ]; then kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null; fi
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

"$bin/rungd" --data "$dir/n1" --name n1 --bind "${ATTACK_BIND:-127.0.0.99}" >"$dir/log" 2>&1 &
pid=$!
ctl() { "$bin/ctl" --data "$dir/n1" "$@"; }
for _ in $(seq 100); do ctl status >/dev/null 2>&1 && break; sleep 0.1; done
ctl db create attacked >/dev/null 2>&1
url=$(ctl db url attacked)

[ $# -gt 0 ] || set -- idle 10000 copy 1024 endless gone
while [ $# -gt 0 ]; do
    what=$1 amount=
    shift
    case ${1:-} in [0-9]*) amount=$1; shift ;; esac
    case $what in
        idle) amount=${amount:-10000} ;;
        copy) amount=${amount:-1024} ;;
        endless | gone) ;;
        *) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 2 ;;
    esac
    python3 scripts/attack-db-clients.py "$what" "$url" "$pid" ${amount:+"$amount"}
done
kill -0 "$pid" || { echo "attack: the node has died" >&2; tail -n 5 "$dir/log" >&2; exit 1; }
