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
    # Debian's /usr/bin/psql and pgbench are there before the programs are.
    psql --version >/dev/null 2>&1 || missing+=(postgresql-client)
    # With the server, whose answers are compared with.
    pgbench --version >/dev/null 2>&1 || missing+=(postgresql)
    have node || missing+=(nodejs)
    have npm || missing+=(npm)
    have javac || missing+=(default-jdk-headless)
    [ -e /usr/share/java/postgresql.jar ] || missing+=(libpostgresql-jdbc-java)
    # For the example in Python, which Rung starts as another user.
    /usr/bin/python3 -c 'import psycopg' 2>/dev/null || missing+=(python3-psycopg)
    # Debian's python3 comes without.
    python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)
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
    printf 'curl, dig, python3, setpriv, psql, pgbench, node, javac, cargo fmt and cargo clippy are there\n'
}

# Clients of databases that are not Debian's, once for each version asked for.
clients_dir=target/test-clients
python_clients=('psycopg[binary]==3.3.*' 'SQLAlchemy==2.*' 'Django==5.2.*')
node_clients=('pg@8')
install_clients() {
    local wanted="${python_clients[*]} ${node_clients[*]}"
    if [ "$(cat "$clients_dir/installed" 2>/dev/null)" = "$wanted" ] &&
        "$clients_dir/python/bin/python" -c 'import psycopg, sqlalchemy, django' 2>/dev/null; then
        printf '%s are there\n' "$wanted"
        return
    fi
    rm -rf "$clients_dir"
    mkdir -p "$clients_dir/node"
    python3 -m venv "$clients_dir/python" &&
        "$clients_dir/python/bin/pip" install --quiet --disable-pip-version-check "${python_clients[@]}" &&
        npm install --silent --no-audit --no-fund --prefix "$clients_dir/node" "${node_clients[@]}" &&
        printf '%s\n' "$wanted" >"$clients_dir/installed"
}

# Without the cluster tests, which need the binaries beside them.
unit_tests() { cargo test --workspace --quiet --exclude rung-tests; }
build() { cargo build --workspace --quiet; }
# One cluster of five keeps a processor busy; the harness counts them itself, and
# many tests may wait for their turn.
cluster_tests() { cargo test -p rung-tests -- --test-threads "$(($(nproc) + 1))"; }
python_tests() {
    (cd examples/notes-python && "../../$clients_dir/python/bin/python" -m unittest -q test_app.py)
}

section "tools" install_tools
section "clients of databases" install_clients
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
