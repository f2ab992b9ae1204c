#!/usr/bin/env bash
# Gives a large database a new replica while clients use it, and prints how long that
# takes, what the clients notice, and how much log is kept.
#
#   scripts/bench-db-replica.sh [--gib 5] [--rate 200] [--seconds 20]
#
# Takes about three times the database's size of disk under TMPDIR.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v pgbench >/dev/null || ! pgbench --version >/dev/null 2>&1; then
    echo "bench-db-replica: pgbench is missing; it is in Debian's postgresql-contrib" >&2
    exit 1
fi
if [ -z "${RUNG_BIN:-}" ]; then
    cargo build --quiet --release -p rung-node -p rung-control
    RUNG_BIN=${CARGO_TARGET_DIR:-target}/release
fi
PYTHONDONTWRITEBYTECODE=1 exec python3 scripts/bench-db-replica.py --rung "$RUNG_BIN" "$@"
