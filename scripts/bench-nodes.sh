#!/usr/bin/env bash
# One node alone and many nodes on this machine: see bench-nodes.py.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${RUNG_BIN:-}" ]; then
    (cd "$root" && cargo build --release --quiet -p rung-node -p rung-control)
fi
RUNG_BIN=${RUNG_BIN:-$root/target/release} exec python3 "$root/scripts/bench-nodes.py" "$@"
