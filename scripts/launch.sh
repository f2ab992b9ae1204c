#!/usr/bin/env bash
# Starts a Rung cluster: on this machine, or on others over ssh.
#
#   scripts/launch.sh                               five nodes, two data centers, an example
#   scripts/launch.sh local --nodes N --dcs east,west --dir DIR [--app PATH]
#   scripts/launch.sh restart --dir DIR --node nK
#   scripts/launch.sh stop --dir DIR
#   scripts/launch.sh ssh hosts.txt [--dir REMOTE_DIR] [--app PATH]
#
# Node nK listens on 127.0.0.(10+K); its data is in DIR/nK, its process id in
# DIR/nK/rungd.pid, its log in DIR/nK/rungd.log. A line of hosts.txt is a host:
# name, address, data center, ssh target.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
bin=${RUNG_BIN:-$root/target/release}

say() { printf '%s\n' "$*" >&2; }
die() { say "launch: $*"; exit 1; }

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
    local seconds=$1 what=$2 end
    shift 2
    end=$(($(date +%s) + seconds))
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$end" ] || die "gave up after ${seconds} s waiting for $what"
        sleep 0.1
    done
}

build() {
    [ -n "${RUNG_BIN:-}" ] && return
    command -v cargo >/dev/null || die "cargo is not installed; install Rust from your distribution or rustup"
    say "building (the first time takes some minutes) ..."
    (cd "$root" && cargo build --release --quiet -p rung-node -p rung-control -p photos -p hello)
}

alive() { # DIR NODE
    local pid
    pid=$(cat "$1/$2/rungd.pid" 2>/dev/null) || return 1
    # A process id may have been given to something else meanwhile.
    { tr "\\0" " " <"/proc/$pid/cmdline"; } 2>/dev/null | grep -qF -- "rungd --data $1/$2 "
}

start_node() { # DIR NODE ARGUMENTS...
    local dir=$1 node=$2
    shift 2
    mkdir -p "$dir/$node"
    # --data comes first, so that `alive` finds it followed by a space.
    setsid "$bin/rungd" --data "$dir/$node" "$@" --port-offset 0 \
        >>"$dir/$node/rungd.log" 2>&1 </dev/null &
    echo $! >"$dir/$node/rungd.pid"
    disown
}

ctl() { # DIR ARGUMENTS...
    local dir=$1
    shift
    "$bin/ctl" --data "$dir/n1" "$@"
}

all_alive() { # DIR COUNT
    ctl "$1" status -o json | python3 -c '
import json, sys
nodes = json.load(sys.stdin)["nodes"]
sys.exit(len(nodes) < int(sys.argv[1]) or any(n["state"] != "alive" for n in nodes))' "$2"
}

settled() { # DIR: the voters and roles are where they are to be
    ctl "$1" status -o json | python3 -c '
import json, sys
status = json.load(sys.stdin)
roles = status["cluster"]["roles"]
nodes = status["nodes"]
want = min(3, len(nodes))
voters = [n for n in nodes if n["control"] != "follower"]
ok = status["cluster"]["leader"] and all(r["have"] >= r["want"] for r in roles.values()) and len(voters) == want
if len(nodes) >= 5:
    ok = ok and nodes[0]["control"] == "follower"
sys.exit(0 if ok else 1)'
}

require_python() { command -v python3 >/dev/null || die "python3 is not installed"; }

# Puts a folder together that can be deployed; prints its path. An example in Rust
# needs the program that was built of it.
app_folder() { # DIR PATH
    local dir=$1 path=$2 name
    path=$(cd "$path" && pwd) || die "there is no folder $path"
    name=$(basename "$path")
    if [ "$path" = "$root/examples/$name" ] && [ -e "$path/Cargo.toml" ]; then
        local folder="$dir/build/$name"
        [ -e "$bin/$name" ] || die "$name is not in $bin; build it with cargo build -p $name"
        mkdir -p "$folder"
        # A program that runs can be replaced, but not written to.
        rm -f "$folder/$name"
        cp "$path/rung.toml" "$folder/"
        cp "$bin/$name" "$folder/$name"
        echo "$folder"
    else
        echo "$path"
    fi
}

deploy() { # DIR PATH
    local folder
    folder=$(app_folder "$1" "$2") || exit 1
    say "deploying $(basename "$folder") ..."
    ctl "$1" deploy "$folder" >&2
}

site_answers() { curl -fsS -m 2 -o /dev/null "http://127.0.0.11:8080/"; }

local_cluster() {
    local nodes=5 dcs=east,west dir=.rung app=
    while [ $# -gt 0 ]; do
        case $1 in
        --nodes) nodes=$2 ;; --dcs) dcs=$2 ;; --dir) dir=$2 ;; --app) app=$2 ;;
        *) die "unknown option $1" ;;
        esac
        shift 2
    done
    require_python
    build
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    [ "$nodes" -ge 1 ] && [ "$nodes" -le 200 ] || die "--nodes is 1 to 200"
    IFS=, read -ra dc <<<"$dcs"
    local fresh=0 k
    [ -e "$dir/n1/node.json" ] || fresh=1
    if [ "$fresh" = 1 ]; then
        say "starting n1 ..."
        start_node "$dir" n1 --name n1 --dc "${dc[0]}" --bind 127.0.0.11
        wait_for 20 "n1 to create the cluster (see $dir/n1/rungd.log)" ctl "$dir" status
        ctl "$dir" token create --uses "$nodes" --ttl 1h >"$dir/token"
        chmod 600 "$dir/token"
    elif ! alive "$dir" n1; then
        start_node "$dir" n1
    fi
    [ "$nodes" -gt 1 ] && say "starting n2 to n$nodes ..."
    for ((k = 2; k <= nodes; k++)); do
        alive "$dir" "n$k" && continue
        if [ -e "$dir/n$k/node.json" ]; then
            start_node "$dir" "n$k"
        else
            start_node "$dir" "n$k" --name "n$k" --dc "${dc[$(((k - 1) % ${#dc[@]}))]}" \
                --bind "127.0.0.$((10 + k))" --join 127.0.0.11:7400 --token-file "$dir/token"
        fi
    done
    wait_for 60 "$nodes nodes to be alive (see $dir/n*/rungd.log)" all_alive "$dir" "$nodes"
    wait_for 60 "roles and voters to be placed (see ctl --data $dir/n1 events)" settled "$dir"
    if [ -n "$app" ]; then
        deploy "$dir" "$app"
        wait_for 30 "the site to answer" site_answers
    fi
}

default_launch() {
    build
    local up=1 k
    for k in 1 2 3 4 5; do alive "$root/.rung" "n$k" || up=0; done
    if [ "$up" = 1 ] && site_answers; then
        say "the cluster is up already"
    else
        local_cluster --nodes 5 --dcs east,west --dir "$root/.rung" --app "$root/examples/photos"
    fi
    cat <<TXT
The site:   http://127.0.0.11:8080/
The admin:  http://127.0.0.11:7401/   (\`ctl ui\` prints a link that lets you in)

Try next, from $root:
  export RUNG_DATA=.rung/n1 PATH=target/release:\$PATH
  ctl status
  psql "\$(ctl db url photos)" -c '\d'
  ctl scale web 4
  kill -9 \$(cat .rung/n2/rungd.pid); ctl events -w
TXT
}

restart_node() {
    local dir= node=
    while [ $# -gt 0 ]; do
        case $1 in --dir) dir=$2 ;; --node) node=$2 ;; *) die "unknown option $1" ;; esac
        shift 2
    done
    [ -n "$dir" ] && [ -n "$node" ] || die "restart needs --dir DIR --node nK"
    dir=$(cd "$dir" && pwd)
    [ -e "$dir/$node/node.json" ] || die "there is no node in $dir/$node"
    alive "$dir" "$node" && die "$node runs already"
    start_node "$dir" "$node"
    wait_for 30 "$node to serve (see $dir/$node/rungd.log)" "$bin/ctl" --data "$dir/$node" status
}

stop_cluster() {
    local dir= pid node end
    while [ $# -gt 0 ]; do
        case $1 in --dir) dir=$2 ;; *) die "unknown option $1" ;; esac
        shift 2
    done
    [ -n "$dir" ] || die "stop needs --dir DIR"
    [ -d "$dir" ] || die "there is no $dir"
    dir=$(cd "$dir" && pwd)
    local pids=()
    for node in "$dir"/n*/; do
        node=$(basename "$node")
        if alive "$dir" "$node"; then
            pid=$(cat "$dir/$node/rungd.pid")
            pids+=("$pid")
            # One that was paused must go on to end.
            kill -TERM "$pid" && kill -CONT "$pid"
        fi
    done
    end=$(($(date +%s) + 40))
    for pid in "${pids[@]}"; do
        while kill -0 "$pid" 2>/dev/null; do
            if [ "$(date +%s)" -ge "$end" ]; then
                kill -KILL "$pid" 2>/dev/null || true
            fi
            sleep 0.05
        done
    done
    rm -f "$dir"/n*/rungd.pid
}

ssh_options=(-o BatchMode=yes -o ConnectTimeout=10)
[ -n "${RUNG_SSH_CONFIG:-}" ] && ssh_options+=(-F "$RUNG_SSH_CONFIG")

# Starts rungd on a host, by systemd where there is one that this user may use.
remote_start() { # TARGET DIR ARGUMENTS...
    local target=$1 dir=$2
    shift 2
    # shellcheck disable=SC2029
    ssh "${ssh_options[@]}" "$target" "sh -s -- $(printf '%q ' "$dir" "$@")" <<'REMOTE'
set -eu
dir=$1; shift
if [ "$(id -u)" = 0 ] && [ -d /run/systemd/system ]; then
    sed "s|@DIR@|$dir|g; s|@ARGUMENTS@|$*|g" "$dir/rungd.service.in" >/etc/systemd/system/rungd.service
    systemctl daemon-reload
    systemctl enable --now rungd.service
elif [ -e "$dir/rungd.pid" ] && kill -0 "$(cat "$dir/rungd.pid")" 2>/dev/null; then
    :
else
    setsid "$dir/rungd" --data "$dir/data" "$@" >>"$dir/rungd.log" 2>&1 </dev/null &
    echo $! >"$dir/rungd.pid"
fi
REMOTE
}

ssh_cluster() {
    local hosts=${1:-} dir=/var/lib/rung app=
    [ -f "$hosts" ] || die "ssh needs a file of hosts: name, address, data center, ssh target"
    shift
    while [ $# -gt 0 ]; do
        case $1 in --dir) dir=$2 ;; --app) app=$2 ;; *) die "unknown option $1" ;; esac
        shift 2
    done
    build
    local name address dc target first= first_address= token
    while read -r name address dc target _ <&3; do
        case $name in '' | '#'*) continue ;; esac
        say "copying to $name ($target) ..."
        local here="$dir/$name"
        ssh "${ssh_options[@]}" "$target" "mkdir -p $(printf %q "$here")"
        scp -q "${ssh_options[@]}" "$bin/rungd" "$bin/ctl" "$root/scripts/rungd.service.in" "$target:$here/"
        if [ -z "$first" ]; then
            first=$target first_address=$address first_dir=$here
            remote_start "$target" "$here" --name "$name" --dc "$dc" --bind "$address"
            wait_for 30 "$name to create the cluster" \
                ssh "${ssh_options[@]}" "$target" "$here/ctl --data $here/data status"
            token=$(ssh "${ssh_options[@]}" "$target" "$here/ctl --data $here/data token create --uses 100 --ttl 1h")
        else
            ssh "${ssh_options[@]}" "$target" "umask 077; cat >$(printf %q "$here/token")" <<<"$token"
            remote_start "$target" "$here" --name "$name" --dc "$dc" --bind "$address" \
                --join "$first_address:7400" --token-file "$here/token"
        fi
    done 3<"$hosts"
    local count
    count=$(grep -cvE '^\s*(#|$)' "$hosts")
    remote_all_alive() {
        ssh "${ssh_options[@]}" "$first" "$first_dir/ctl --data $first_dir/data status -o json" |
            python3 -c '
import json, sys
nodes = json.load(sys.stdin)["nodes"]
sys.exit(len(nodes) < int(sys.argv[1]) or any(n["state"] != "alive" for n in nodes))' "$count"
    }
    require_python
    wait_for 60 "$count nodes to be alive" remote_all_alive
    if [ -n "$app" ]; then
        local folder
        folder=$(app_folder "$(mktemp -d)" "$app") || exit 1
        tar -C "$folder" -cf - . | ssh "${ssh_options[@]}" "$first" "mkdir -p $first_dir/app && tar -C $first_dir/app -xf -"
        ssh "${ssh_options[@]}" "$first" "$first_dir/ctl --data $first_dir/data deploy $first_dir/app"
    fi
    say "$count nodes are up; on $first: $first_dir/ctl --data $first_dir/data status"
}

case ${1:-} in
'') default_launch ;;
local) shift; local_cluster "$@" ;;
restart) shift; restart_node "$@" ;;
stop) shift; stop_cluster "$@" ;;
ssh) shift; ssh_cluster "$@" ;;
-h | --help) sed -n '2,13s/^# \{0,1\}//p' "$0" ;;
*) die "unknown command $1; see --help" ;;
esac
