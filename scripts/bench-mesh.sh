#!/usr/bin/env bash
# Measures the load balancer with its instance on another node, which it reaches
# through the mesh, encrypted, beside nginx and HAProxy, which reach the same
# process by plain TCP. Rung's CPU time is that of both nodes.
#
#   scripts/bench-mesh.sh [seconds per run, default 5] [rounds, default 3]
#
# RUNG_BIN names a directory with rungd, ctl and hello; otherwise they are built.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-5} rounds=${2:-3} connections=64
dir=$(mktemp -d)
chmod 755 "$dir"
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null; rm -rf "$dir"' EXIT
for tool in nginx haproxy wrk; do
    command -v "$tool" >/dev/null || { echo "install $tool" >&2; exit 1; }
done
if [ -z "${RUNG_BIN:-}" ]; then
    cargo build --quiet --release -p rung-node -p rung-control -p hello
    RUNG_BIN=${CARGO_TARGET_DIR:-target}/release
fi

start() { # name, command...
    local name=$1
    shift
    "$@" >"$dir/$name.out" 2>&1 &
    pids+=($!)
    declare -g "pid_$name=$!"
}
until_true() {
    for _ in $(seq 300); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "gave up waiting for: $*" >&2
    tail -n 3 "$dir"/*.out >&2
    exit 1
}
ctl() { "$RUNG_BIN/ctl" --data "$dir/n1" "$@"; }
instance() { # the port of the one healthy instance, on n2
    ctl status -o json | python3 -c '
import json, sys
found = [i for a in json.load(sys.stdin)["apps"] for i in a["web"]["instances"]]
healthy = [i["port"] for i in found if i["state"] == "healthy" and i["node"] == "n2"]
print(healthy[0]) if len(found) == 1 and healthy else sys.exit(1)'
}

start n1 "$RUNG_BIN/rungd" --data "$dir/n1" --name n1 --bind 127.0.0.231 --roles control,lb
until_true ctl status
ctl token create >"$dir/token" 2>/dev/null
start n2 "$RUNG_BIN/rungd" --data "$dir/n2" --name n2 --bind 127.0.0.232 --roles web \
    --join 127.0.0.231:7400 --token-file "$dir/token"
until_true sh -c "'$RUNG_BIN/ctl' --data '$dir/n2' status"
mkdir "$dir/app"
cp "$RUNG_BIN/hello" "$dir/app/"
sed 's/^instances.*/instances = 1/' examples/hello/rung.toml >"$dir/app/rung.toml"
ctl deploy "$dir/app" >/dev/null 2>&1
until_true instance
upstream=127.0.0.232:$(instance)

cat >"$dir/nginx.conf" <<NGINX
worker_processes 2; daemon off; pid $dir/nginx.pid; error_log /dev/null crit;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000;
  client_body_temp_path $dir/b; proxy_temp_path $dir/p; fastcgi_temp_path $dir/f;
  uwsgi_temp_path $dir/u; scgi_temp_path $dir/s;
  upstream app { server $upstream; keepalive 128; keepalive_requests 1000000000; }
  server { listen 127.0.0.1:18181 reuseport; location / { proxy_pass http://app; proxy_http_version 1.1;
    proxy_set_header Connection ''; proxy_set_header Host \$host; proxy_buffering off;
    proxy_set_header X-Forwarded-For \$remote_addr; } } }
NGINX
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
    bind 127.0.0.1:18182
    default_backend app
backend app
    server one $upstream
HAPROXY
start nginx nginx -c "$dir/nginx.conf"
start haproxy haproxy -f "$dir/haproxy.cfg"
for address in 127.0.0.231:8080 127.0.0.1:18181 127.0.0.1:18182; do
    until_true curl -fso /dev/null "http://$address/"
done

ticks() { # processes: their CPU time and that of their children that are proxies
    local sum=0 process stat
    for process in "$@"; do
        stat=$(sed 's/.*) //' "/proc/$process/stat")
        set -- $stat
        sum=$((sum + ${12} + ${13}))
    done
    echo "$sum"
}
workers() { echo "$1" $(pgrep -P "$1" || true); }

printf '%-8s %10s %16s %10s\n' proxy req/s req/CPU-second "p99 ms"
for _ in $(seq "$rounds"); do
    for proxy in "rung 127.0.0.231:8080 $pid_n1 $pid_n2" \
        "nginx 127.0.0.1:18181 $(workers "$pid_nginx")" \
        "haproxy 127.0.0.1:18182 $(workers "$pid_haproxy")"; do
        read -r label address processes <<<"$proxy"
        wrk -t1 -c$connections -d1 "http://$address/" >/dev/null
        before=$(ticks $processes)
        out=$(wrk -t1 -c$connections -d"$seconds" --latency "http://$address/")
        spent=$(($(ticks $processes) - before))
        awk -v label="$label" -v s="$seconds" -v t="$spent" -v hz="$(getconf CLK_TCK)" '
            function ms(text) { return text ~ /us$/ ? text / 1000 : text ~ /ms$/ ? text + 0 : text * 1000 }
            /requests in/ { n = $1 } / 99%/ { p99 = ms($2) } /Socket errors|Non-2xx/ { bad = "  with errors" }
            END { printf "%-8s %10.0f %16.0f %10.2f%s\n", label, n / s, n * hz / (t > 0 ? t : 1), p99, bad }' <<<"$out"
    done
done
