#!/usr/bin/env bash
# Simulates whole shards of a database, the shipped code on disks that lose power
# and tear pages, and on links that lose messages, and checks what clients saw.
#
#   scripts/simulate-db.sh                    2000 seeds
#   scripts/simulate-db.sh --seeds N          so many
#   scripts/simulate-db.sh --first N          beginning with this one
#   scripts/simulate-db.sh --seed N           this one alone
#   scripts/simulate-db.sh --at-once N        so many at the same time
#   scripts/simulate-db.sh --bugs             sees that seeded bugs are caught
#   scripts/simulate-db.sh --release          with an optimised build
#
# A seed chooses what goes wrong and what clients do, not how threads are scheduled:
# run one that found something several times. Exit code 1 when a promise was broken.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'simulate-db: %s\n' "$*" >&2; exit 2; }
number() { [[ ${2:-} =~ ^[0-9]+$ ]] || die "$1 takes a number"; }

seeds=2000 first=0 seed='' at_once='' test=no_seed_breaks_a_promise profile=()
while (($#)); do
    case $1 in
    --seeds) number "$@"; seeds=$2; shift ;;
    --first) number "$@"; first=$2; shift ;;
    --seed) number "$@"; seed=$2; shift ;;
    --at-once) number "$@"; at_once=$2; shift ;;
    --bugs) test=caught ;;
    --release) profile=(--release) ;;
    -h | --help) sed -n '2,/^set /{/^set /d; s/^# \{0,1\}//; p}' "$0"; exit 0 ;;
    *) die "unknown option $1; see --help" ;;
    esac
    shift
done

if [[ $test == no_seed_breaks_a_promise ]]; then
    export RUNG_SEEDS=$seeds RUNG_FIRST=$first
fi
[[ -z $seed ]] || export RUNG_SEED=$seed
[[ -z $at_once ]] || export RUNG_AT_ONCE=$at_once
exec cargo test "${profile[@]}" -p rung-shard --test simulation "$test" -- \
    --nocapture --test-threads 1
