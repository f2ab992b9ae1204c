#!/usr/bin/env bash
# Measures the database beside PostgreSQL 15, by turns on the same machine, with
# PostgreSQL's own pgbench: one node against one server, three nodes against a server
# with one synchronous standby, and both again with 50 ms between machines. Prints
# transactions per second, CPU time of all server processes per transaction, ratios,
# and what loses.
#
#   scripts/bench-db.sh [--seconds 5] [--rounds 3] [--scale 10] [--clients 1,8,32]
#                       [--parts one,three,far] [--left postgres] [--right rung]
#                       [--modes select-only,simple-update,TPC-B-like]
#                       [--isolation 'read committed']
#
# Figures of one machine say little; the ratios of one run say something.
set -euo pipefail
cd "$(dirname "$0")/.."

postgres=/usr/lib/postgresql/15/bin
if [ ! -x "$postgres/pgbench" ] || [ ! -x "$postgres/postgres" ]; then
    echo "installing postgresql-15" >&2
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends postgresql-15; } >&2; then
        echo "bench-db: PostgreSQL 15 is not in $postgres and cannot be installed; it is in" \
            "Debian 12 and at apt.postgresql.org" >&2
        exit 1
    fi
fi
missing=()
command -v ip >/dev/null || missing+=(iproute2)
command -v iptables >/dev/null || missing+=(iptables)
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ]; then
    echo "installing ${missing[*]}" >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >&2
fi
if [ -z "${RUNG_BIN:-}" ]; then
    cargo build --quiet --release -p rung-node -p rung-control
    cargo build --quiet --release -p rung-tests --bin packet-delay
    RUNG_BIN=${CARGO_TARGET_DIR:-target}/release
fi
PYTHONDONTWRITEBYTECODE=1 exec python3 scripts/bench-db.py --postgres "$postgres" --rung "$RUNG_BIN" "$@"
