#!/usr/bin/env bash
# Compares Rung's DNS with Knot and NSD on this machine: queries a second, and
# queries per second of the server's CPU time, which says more where load
# generator and server share cores. Each server has one UDP thread. Prints for
# every workload whether Rung wins or loses against the best of the others.
#
#     scripts/bench-dns.sh [seconds a run, default 5] [rounds, default 1]
#
# Needs dnsperf; Knot and NSD where they are installed (on Debian: apt-get
# install dnsperf knot nsd). Of several rounds the best one counts.
set -euo pipefail

cd "$(dirname "$0")/.."
seconds=${1:-5}
rounds=${2:-1}
work=$(mktemp -d)
started=()
cleanup() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

for tool in dnsperf knotd nsd; do
    if ! command -v "$tool" >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get install -y --no-install-recommends "${tool/knotd/knot}" >/dev/null 2>&1 || true
    fi
done
command -v dnsperf >/dev/null || { echo "dnsperf is missing: apt-get install dnsperf" >&2; exit 2; }

cargo build --quiet --release -p rung-dns --example standalone
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

cat > "$work/bench.test.zone" <<'ZONE'
$ORIGIN bench.test.
$TTL 5
@ SOA ns1 hostmaster 1 3600 600 604800 5
@ NS ns1
@ NS ns2
ns1 A 192.0.2.51
ns2 A 192.0.2.52
ZONE
for name in @ www cdn api; do
    for n in 1 2 3 4; do
        echo "$name A 192.0.2.$n"
        echo "$name AAAA 2001:db8::$n"
    done
done >> "$work/bench.test.zone"

cat > "$work/knot.conf" <<CONF
server:
    rundir: "$work"
    listen: 127.0.0.1@5392
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
database:
    storage: "$work/knot-db"
zone:
  - domain: bench.test
    storage: "$work"
    file: bench.test.zone
    zonefile-sync: -1
    journal-content: none
CONF

cat > "$work/nsd.conf" <<CONF
server:
    ip-address: 127.0.0.1@5393
    server-count: 1
    database: ""
    username: ""
    zonesdir: "$work"
    pidfile: "$work/nsd.pid"
    xfrdfile: "$work/xfrd.state"
    zonelistfile: "$work/zone.list"
    logfile: "$work/nsd.log"
    xfrdir: "$work"
    rrl-ratelimit: 0
    rrl-whitelist-ratelimit: 0
    minimal-responses: yes
remote-control:
    control-enable: no
zone:
    name: bench.test
    zonefile: bench.test.zone
CONF

printf '%s\n' "www.bench.test A" "cdn.bench.test A" "api.bench.test A" "bench.test A" \
    > "$work/A"
{
    for name in www cdn api; do printf '%s.bench.test A\n%s.bench.test AAAA\n' $name $name; done
    printf 'bench.test A\nbench.test HTTPS\nwww.bench.test TXT\nnope.bench.test A\n'
} > "$work/mix"
for n in $(seq 2000); do echo "x$n-$((n * 7919 % 100003)).bench.test A"; done > "$work/nxdomain"
printf 'bench.test NS\nbench.test SOA\n' > "$work/apex"
printf 'bench.test ANY\nwww.bench.test ANY\n' > "$work/any"

# Name of the workload, its queries, and further arguments of dnsperf.
workloads=(
    "A|A|"
    "A with EDNS|A|-e"
    "A with client subnet|A|-E 8:00011800c0a801"
    "mix|mix|-e"
    "NXDOMAIN|nxdomain|-e"
    "NS and SOA|apex|-e"
    "ANY (slow path)|any|-e"
    "A over TCP|A|-m tcp"
)

# A process and all that descend from it.
family() {
    local child
    echo "$1"
    for child in $(pgrep -P "$1" || true); do family "$child"; done
}

# Clock ticks that a process and its descendants have used.
ticks() {
    local total=0 pid
    for pid in $(family "$1"); do
        if [ -r "/proc/$pid/stat" ]; then
            total=$((total + $(sed 's/.*) //' "/proc/$pid/stat" | awk '{print $12 + $13}')))
        fi
    done
    echo "$total"
}

names=() pids=() ports=()
launch() {
    local name=$1 port=$2
    shift 2
    "$@" > "$work/$name.out" 2>&1 &
    started+=("$!")
    for _ in $(seq 50); do
        if dnsperf -s 127.0.0.1 -p "$port" -d "$work/A" -n 1 -t 0.2 2>/dev/null |
            grep -q "NOERROR"; then
            names+=("$name") pids+=("$!") ports+=("$port")
            return
        fi
        kill -0 "$!" 2>/dev/null || break
    done
    echo "$name did not start:" >&2
    tail -5 "$work/$name.out" >&2
    return 1
}

launch Rung 5391 "$target/release/examples/standalone" 127.0.0.1:5391 1
mkdir -p "$work/knot-db"
if command -v knotd >/dev/null; then launch Knot 5392 knotd -c "$work/knot.conf" || true; fi
if command -v nsd >/dev/null; then launch NSD 5393 nsd -d -c "$work/nsd.conf" || true; fi

hertz=$(getconf CLK_TCK)
printf '%-22s %-6s %12s %18s %8s\n' workload server queries/s queries/CPU-second lost
for workload in "${workloads[@]}"; do
    IFS='|' read -r title queries extra <<< "$workload"
    : > "$work/results"
    for _ in $(seq "$rounds"); do
        for index in "${!names[@]}"; do
            before=$(ticks "${pids[index]}")
            # shellcheck disable=SC2086
            dnsperf -s 127.0.0.1 -p "${ports[index]}" -d "$work/$queries" -l "$seconds" \
                -c 8 -T 1 -q 200 $extra > "$work/run" 2>&1
            after=$(ticks "${pids[index]}")
            awk -v name="${names[index]}" -v used=$((after - before)) -v hertz="$hertz" '
                /Queries completed:/ { done = $3 }
                /Queries lost:/ { lost = $3 }
                /Queries per second:/ { rate = $4 }
                END { printf "%s %d %d %d\n", name, rate, used ? done * hertz / used : 0, lost }
            ' "$work/run" >> "$work/results"
        done
    done
    for name in "${names[@]}"; do
        awk -v name="$name" '$1 == name' "$work/results" | sort -k3 -n -r | head -1
    done > "$work/best"
    awk -v title="$title" '{ printf "%-22s %-6s %12d %18d %8d\n", title, $1, $2, $3, $4 }' "$work/best"
    awk -v title="$title" '
        $1 == "Rung" { rate = $2; cpu = $3 }
        $1 != "Rung" && $2 > best_rate { best_rate = $2; fastest = $1 }
        $1 != "Rung" && $3 > best_cpu { best_cpu = $3; leanest = $1 }
        function verdict(own, other) { return own >= other ? "wins" : "LOSES" }
        END {
            if (!best_rate || !best_cpu) exit
            printf "%-22s Rung %s per CPU second, %.2f x %s; %s per second, %.2f x %s\n\n", title,
                verdict(cpu, best_cpu), cpu / best_cpu, leanest,
                verdict(rate, best_rate), rate / best_rate, fastest
        }' "$work/best"
done
