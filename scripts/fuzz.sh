#!/bin/sh
# Fuzzes the parsers of outside bytes. See fuzz/README.md.
#
#   scripts/fuzz.sh [SECONDS] [TARGET...]   fuzz each target for so long (120)
#   scripts/fuzz.sh replay [TARGET...]      run every kept input once
#   scripts/fuzz.sh keep [TARGET...]        keep what the last runs found of use
set -eu
cd "$(dirname "$0")/../fuzz"

# A corpus that is kept stays small: so many files, so many bytes.
KEEP_FILES=100
KEEP_BYTES=200000

mode=fuzz
seconds=120
case ${1:-} in
    replay | keep)
        mode=$1
        shift
        ;;
    -h | --help)
        sed -n '2,7s/^# \{0,1\}//p' "../scripts/$(basename "$0")"
        exit 0
        ;;
    [0-9]*)
        seconds=$1
        shift
        ;;
esac

known=$(sed -n 's/^path = "fuzz_targets\/\(.*\)\.rs"$/\1/p' Cargo.toml)
targets=${*:-$known}
for target in $targets; do
    if [ ! -f "fuzz_targets/$target.rs" ]; then
        printf 'There is no target %s. Targets:\n%s\n' "$target" "$known" >&2
        exit 2
    fi
done

if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "Installing cargo-fuzz" >&2
    cargo install --locked cargo-fuzz
fi

# Coverage is all that is asked of the compiler, no sanitizer: the parsers are
# safe Rust. The variable lets a stable compiler take the flags for it.
export RUSTC_BOOTSTRAP=1
built=target/$(rustc -vV | sed -n 's/^host: //p')/release
if [ $# -gt 0 ]; then
    for target in $targets; do cargo fuzz build --sanitizer none "$target"; done
else
    cargo fuzz build --sanitizer none
fi

# For bundles, which are unpacked; in memory where there is such a place.
if [ -w /dev/shm ]; then TMPDIR=/dev/shm; fi
TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/rung-fuzz-XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 130' INT TERM

# Small inputs find more in the same time; archives need room for headers.
longest() {
    case $1 in
        bundle | wal_recovery | membership_swim) echo 8192 ;;
        *) echo 4096 ;;
    esac
}

count() { find "$1" -type f | wc -l; }

fuzz() {
    found=target/corpus/$1
    log=target/logs/$1.log
    mkdir -p "$found" "artifacts/$1" target/logs "corpus/$1"
    echo "== $1: $seconds s"
    status=0
    "$built/$1" "$found" "corpus/$1" -max_total_time="$seconds" -max_len="$(longest "$1")" \
        -artifact_prefix="artifacts/$1/" -timeout=10 -rss_limit_mb=2048 -use_value_profile=1 \
        -print_final_stats=1 >"$log" 2>&1 || status=$?
    sed -n -e 's/.*INITED \(cov: [0-9]*\).*/   first \1/p' "$log"
    sed -n 's/.* \(cov: [0-9]*\).*/   last  \1/p' "$log" | tail -n 1
    sed -n 's/^stat::number_of_executed_units: */   executions: /p' "$log"
    if [ "$status" -ne 0 ]; then
        echo "   FAILED, see fuzz/$log and fuzz/artifacts/$1/" >&2
        return 1
    fi
}

replay() {
    if ! "$built/$1" -runs=0 -timeout=10 "corpus/$1" >"target/replay.log" 2>&1; then
        echo "$1 FAILED" >&2
        tail -n 40 target/replay.log >&2
        return 1
    fi
    echo "$1: $(count "corpus/$1") inputs"
}

# What is kept already stays. Of what was found, the smallest set that covers the
# same code; where that is too large, some of it, of all sizes.
keep() {
    merged=target/merged/$1
    rm -rf "$merged" && mkdir -p "$merged" "target/corpus/$1"
    "$built/$1" -set_cover_merge=1 -use_counters=0 -timeout=10 \
        "$merged" "corpus/$1" "target/corpus/$1" >target/merge.log 2>&1
    files=$(count "corpus/$1")
    bytes=$(find "corpus/$1" -type f -exec cat {} + | wc -c)
    free=$((KEEP_FILES - files))
    if [ "$free" -gt 0 ]; then
        every=$((($(count "$merged") + free - 1) / free))
        find "$merged" -type f -exec stat -c '%s %n' {} + | sort -rn |
            awk -v every="$every" '(NR - 1) % every == 0 { print $1, $2 }' >target/chosen
        while read -r size file; do
            if [ -e "corpus/$1/$(basename "$file")" ]; then continue; fi
            if [ $((bytes + size)) -gt "$KEEP_BYTES" ]; then continue; fi
            cp "$file" "corpus/$1/"
            files=$((files + 1))
            bytes=$((bytes + size))
        done <target/chosen
    fi
    echo "$1: $files inputs, $bytes bytes"
}

failed=0
for target in $targets; do
    "$mode" "$target" || failed=1
done
exit $failed
