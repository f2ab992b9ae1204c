#!/usr/bin/env bash
# Checks everything: formatting, lints, unit, property and simulation tests, the
# examples, and clusters of real processes. Stops at the first failure.
#
#   scripts/test.sh              everything
#   scripts/test.sh clusters     only the multi-process tests
#   RUNG_TEST_LOGS=DIR           keeps the logs of nodes whose test failed
set -euo pipefail
exec </dev/null
cd "$(dirname "$0")/.."

export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
export CARGO_TERM_PROGRESS_WHEN=never
export PYTHONDONTWRITEBYTECODE=1
unset RUNG_DATA RUNG_BIN RUNG_LOG

only=${1:-}
started=$(date +%s)
summary=()

die() { printf 'test: %s\n' "$*" >&2; exit 1; }

# section TITLE COMMAND...: runs it, and says how long it took.
section() {
    local title=$1 begun took
    shift
    begun=$(date +%s)
    printf '\n== %s (after %s s)\n' "$title" "$((begun - started))"
    if ! "$@"; then
        printf '\n== %s FAILED after %s s\n' "$title" "$(($(date +%s) - begun))" >&2
        exit 1
    fi
    took=$(($(date +%s) - begun))
    summary+=("$(printf '%5s s  %s' "$took" "$title")")
}

have() { command -v "$1" >/dev/null 2>&1; }

# The tools that the tests use as a user does, by the names of Debian's packages.
install_tools() {
    local missing=()
    have curl || missing+=(curl)
    have dig || missing+=(bind9-dnsutils)
    have python3 || missing+=(python3)
    have setpriv || missing+=(util-linux)
    have cc || missing+=(gcc)
    # For cutting networks. Without root those tests are skipped.
    if [ "$(id -u)" = 0 ]; then
        have ip || missing+=(iproute2)
        have nft || missing+=(nftables)
        have iptables || missing+=(iptables)
    fi
    if [ ${#missing[@]} -gt 0 ]; then
        have apt-get || die "missing: ${missing[*]}; install them with your package manager"
        [ "$(id -u)" = 0 ] || die "missing: ${missing[*]}; run: sudo apt-get install ${missing[*]}"
        DEBIAN_FRONTEND=noninteractive apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}"
    fi
    have cargo || die "cargo is not installed; install Rust 1.90 or newer, for example with rustup"
    cargo fmt --version >/dev/null 2>&1 || die "rustfmt is missing: rustup component add rustfmt"
    cargo clippy --version >/dev/null 2>&1 || die "clippy is missing: rustup component add clippy"
    printf 'curl, dig, python3, setpriv, cargo fmt and cargo clippy are there\n'
}

# Without the cluster tests, which need the binaries beside them.
unit_tests() { cargo test --workspace --quiet --exclude rung-tests; }
build() { cargo build --workspace --quiet; }
# One cluster of five keeps a processor busy; the harness counts them itself, and
# many tests may wait for their turn.
cluster_tests() { cargo test -p rung-tests -- --test-threads "$(($(nproc) + 1))"; }
python_tests() { (cd examples/notes-python && python3 -m unittest -q test_app.py); }

section "tools" install_tools
if [ "$only" = clusters ]; then
    section "build" build
    section "clusters of real processes" cluster_tests
else
    [ -z "$only" ] || die "there is no part $only; see the head of this script"
    section "formatting" cargo fmt --all --check
    section "lints" cargo clippy --workspace --all-targets --quiet -- -D warnings
    section "build" build
    section "unit, property and simulation tests" unit_tests
    section "the Python example" python_tests
    section "clusters of real processes" cluster_tests
fi

printf '\nAll passed in %s s:\n' "$(($(date +%s) - started))"
printf '%s\n' "${summary[@]}"
