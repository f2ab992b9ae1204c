#!/usr/bin/env bash
# Measures the load balancer beside nginx and HAProxy: the same upstream, the same
# load, in turns on the same machine. Prints medians over the rounds of requests
# per second, requests per second of CPU time of the proxy, and latencies.
#
#   scripts/bench-lb.sh [seconds per run, default 5] [rounds, default 3]
#
# Figures of one machine say little; the ratios of one run say something. What
# loses is shown like what wins.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-5}
rounds=${2:-3}
connections=64
dir=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null; rm -rf "$dir"' EXIT

missing=()
for tool in nginx haproxy wrk; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}" >&2
    apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
fi
cargo build --quiet --release -p rung-lb --example standalone
standalone=${CARGO_TARGET_DIR:-target}/release/examples/standalone

upstream=18080
mkdir "$dir/www"
head -c 100 /dev/zero | tr '\0' x >"$dir/www/small"
head -c 1048576 /dev/zero | tr '\0' x >"$dir/www/large"
chmod -R a+rX "$dir"

# nginx as the upstream, and once more as a proxy.
nginx_config() { # file, worker processes, server block
    cat >"$1" <<NGINX
worker_processes $2;
daemon off;
pid $1.pid;
error_log /dev/null crit;
events { worker_connections 4096; }
http {
    access_log $4;
    keepalive_requests 1000000000;
    client_body_temp_path $dir/body; proxy_temp_path $dir/proxy; fastcgi_temp_path $dir/f;
    uwsgi_temp_path $dir/u; scgi_temp_path $dir/s;
    $3
}
NGINX
}
nginx_config "$dir/upstream.conf" 2 "sendfile on; open_file_cache max=16; server { listen 127.0.0.1:$upstream reuseport; root $dir/www; }" off
nginx_config "$dir/proxy.conf" 2 "upstream app { server 127.0.0.1:$upstream; keepalive 128; keepalive_requests 1000000000; }
    server { listen 127.0.0.1:18081 reuseport; location / { proxy_pass http://app; proxy_http_version 1.1;
    proxy_set_header Connection ''; proxy_set_header Host \$host; proxy_set_header X-Forwarded-For \$remote_addr;
    proxy_set_header X-Request-Id \$request_id; proxy_buffering off; } }" off
sed "s/access_log off/access_log $(sed 's/[/]/\\&/g' <<<"$dir/nginx.log")/; s/18081/18084/" "$dir/proxy.conf" >"$dir/proxy-log.conf"
sed -i "s|^pid .*|pid $dir/proxy-log.pid;|" "$dir/proxy-log.conf"
cat >"$dir/haproxy.cfg" <<HAPROXY
global
    nbthread 2
defaults
    mode http
    timeout connect 1s
    timeout client 75s
    timeout server 60s
    http-reuse always
    option forwardfor
frontend in
    bind 127.0.0.1:18082
    unique-id-format %{+X}o\ %ci:%cp_%fi:%fp_%Ts_%rt:%pid
    unique-id-header X-Request-Id
    default_backend app
backend app
    server one 127.0.0.1:$upstream
HAPROXY

start() { # name, command...
    local name=$1
    shift
    "$@" >"$dir/$name.out" 2>&1 &
    pids+=($!)
    declare -g "pid_$name=$!"
}
start upstream nginx -c "$dir/upstream.conf"
start nginx nginx -c "$dir/proxy.conf"
start nginxlog nginx -c "$dir/proxy-log.conf"
start haproxy haproxy -f "$dir/haproxy.cfg"
start rung "$standalone" 127.0.0.1:18083 127.0.0.1:$upstream --threads 2
start runglog "$standalone" 127.0.0.1:18085 127.0.0.1:$upstream --threads 2 --log "$dir/rung.log"
for port in $upstream 18081 18082 18083 18084 18085; do
    for _ in $(seq 100); do
        curl -fso /dev/null "http://127.0.0.1:$port/small" && break
        sleep 0.1
    done
    curl -fso /dev/null "http://127.0.0.1:$port/small" || { echo "nothing answers on $port" >&2; cat "$dir"/*.out >&2; exit 1; }
done

# CPU time of a process and its children, in clock ticks.
ticks() {
    local sum=0 stat process
    for process in "$1" $(pgrep -P "$1" || true); do
        stat=$(sed 's/.*) //' "/proc/$process/stat")
        set -- $stat
        sum=$((sum + ${12} + ${13}))
    done
    echo "$sum"
}

run() { # label, pid, port, path
    local before after out
    wrk -t1 -c$connections -d1 "http://127.0.0.1:$3$4" >/dev/null
    before=$(ticks "$2")
    out=$(wrk -t1 -c$connections -d"$seconds" --latency "http://127.0.0.1:$3$4")
    after=$(ticks "$2")
    awk -v s="$seconds" -v t="$((after - before))" -v hz="$(getconf CLK_TCK)" '
        function ms(text) { return text ~ /us$/ ? text / 1000 : text ~ /ms$/ ? text + 0 : text * 1000 }
        /requests in/ { n = $1 }
        / 50%/ { p50 = ms($2) }
        / 99%/ { p99 = ms($2) }
        /Socket errors|Non-2xx/ { errors = 1 }
        END { print n / s, (t > 0 ? n * hz / t : 0), p50, p99, errors + 0 }' <<<"$out" >>"$dir/$1$4"
}

median() { # file, column
    awk -v column="$2" '{ print $column }' "$1" | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

proxies="rung:$pid_rung:18083 nginx:$pid_nginx:18081 haproxy:$pid_haproxy:18082
    rung-with-log:$pid_runglog:18085 nginx-with-log:$pid_nginxlog:18084"
for path in /small /large; do
    [ $path = /small ] && echo "body of 100 bytes" || echo "body of 1 MiB"
    for _ in $(seq "$rounds"); do
        for proxy in $proxies; do
            IFS=: read -r label pid port <<<"$proxy"
            mkdir -p "$dir/$label"
            run "$label" "$pid" "$port" $path
        done
    done
    printf "%-16s %10s %16s %10s %10s\n" proxy req/s req/CPU-second "p50 ms" "p99 ms"
    for proxy in $proxies; do
        label=${proxy%%:*}
        results="$dir/$label$path"
        printf "%-16s %10.0f %16.0f %10.2f %10.2f" "$label" "$(median "$results" 1)" \
            "$(median "$results" 2)" "$(median "$results" 3)" "$(median "$results" 4)"
        [ "$(awk '{ sum += $5 } END { print sum }' "$results")" = 0 ] || printf "  with errors"
        echo
    done
    echo
done
