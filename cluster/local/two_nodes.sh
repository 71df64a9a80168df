#!/usr/bin/env bash
# A Ray cluster of two nodes on one Linux machine: two raylets, each in a network namespace with an address of its own,
# joined by a bridge. Processes of the nodes reach each other only through that bridge, as on two hosts; the file system
# is the machine's, so every path is shared storage, except TWO_NODES_PRIVATE: if that names a directory, the worker node
# has an empty disk of its own in its place. Needs root, iproute2, and `ray` on the PATH (or RAY=path/to/ray).
#
#   two_nodes.sh up                    start both; RAY_CPUS is what each node offers (default 1)
#   two_nodes.sh exec COMMAND...       run COMMAND on the head node, with RAY_ADDRESS set: a driver
#   two_nodes.sh kill worker|head      SIGKILL every process of that node, as if its power was cut
#   two_nodes.sh take worker           SIGTERM to its `ray start`, as when a spot instance ends: 30 s of notice
#   two_nodes.sh start worker          start a new node in its place
#   two_nodes.sh cut | mend            stop all packets between the nodes, and let them pass again
#   two_nodes.sh alive worker|head     whether the cluster counts that node as alive, as an exit code
#   two_nodes.sh down                  end both and remove namespaces, bridge and Ray's files
#
# Jobs are submitted from outside: ray job submit --address http://10.77.0.1:8265 --working-dir . -- python train.py
set -euo pipefail

ray=${RAY:-ray}
cpus=${RAY_CPUS:-1}
# The cluster asks for a token, as Ray does by default; `ray start --head` makes one in ~/.ray/auth_token.
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
state=${TWO_NODES_DIRECTORY:-/tmp/rt2n}
bridge=rt-bridge
declare -A address=([head]=10.77.0.1 [worker]=10.77.0.2)

say() { echo "two_nodes: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

within() { # NODE COMMAND...: the command sees that node's network only
    local node=$1
    shift
    ip netns exec "rt-$node" "$@"
}

connect() { # NODE
    local node=$1
    ip netns add "rt-$node"
    ip link add "rt-$node" type veth peer name eth0 netns "rt-$node"
    ip link set "rt-$node" master "$bridge" up
    ip -n "rt-$node" address add "${address[$node]}/24" dev eth0
    ip -n "rt-$node" link set eth0 up
    ip -n "rt-$node" link set lo up
}

start() { # NODE
    local node=$1 role
    case $node in
        head) role=(--head --port 6379 --dashboard-host 0.0.0.0) ;;
        worker) role=(--address "${address[head]}:6379") ;;
        *) fail "there is no node $node; the nodes are head and worker" ;;
    esac
    local disks=()
    if [ "$node" = worker ] && [ -n "${TWO_NODES_PRIVATE:-}" ]; then
        # `ip netns exec` gives its command mounts of its own.
        # shellcheck disable=SC2016  # sh expands them
        disks=(sh -c 'mount -t tmpfs tmpfs "$0" && exec "$@"' "$TWO_NODES_PRIVATE")
    fi
    # A session of its own, so that the whole node can be ended by its group. No function, so that $! is that process.
    ip netns exec "rt-$node" "${disks[@]}" setsid "$ray" start "${role[@]}" --node-ip-address "${address[$node]}" --num-cpus "$cpus" \
        --temp-dir "$state/ray" --disable-usage-stats --block >"$state/$node.log" 2>&1 &
    echo $! >"$state/$node.pid"
    wait_until_alive "$node"
}

is_alive() { # NODE
    RAY_ADDRESS="${address[head]}:6379" within head "$ray" list nodes --format json 2>/dev/null |
        tr -d ' \n' | tr '{' '\n' | grep "\"node_ip\":\"${address[$1]}\"" | grep -q '"state":"ALIVE"'
}

wait_until_alive() { # NODE
    local node=$1 deadline=$((SECONDS + 90))
    while [ "$SECONDS" -lt "$deadline" ]; do
        ! is_alive "$node" || return 0
        kill -0 "$(cat "$state/$node.pid")" 2>/dev/null || fail "$node ended: $(tail -3 "$state/$node.log")"
    done
    fail "$node is not alive after 90 s; see $state/$node.log"
}

kill_node() { # NODE SIGNAL: all processes in the namespace, and no other
    ip netns pids "rt-$1" 2>/dev/null | xargs --no-run-if-empty kill "-$2" 2>/dev/null || true
}

up() {
    [ "$(id -u)" = 0 ] || fail "network namespaces need root: sudo $0 up"
    command -v "$ray" >/dev/null || fail "found no '$ray'; activate the environment that has Ray, or set RAY"
    ! ip link show "$bridge" >/dev/null 2>&1 || fail "it is up already: $0 down"
    mkdir -p "$state"
    ip link add "$bridge" type bridge
    ip address add 10.77.0.254/24 dev "$bridge"
    ip link set "$bridge" up
    connect head
    connect worker
    start head
    start worker
    say "up: ${address[head]} and ${address[worker]} with $cpus CPU(s) each, logs in $state"
}

down() {
    local node
    for node in worker head; do
        kill_node "$node" TERM
        for _ in $(seq 50); do
            [ -n "$(ip netns pids "rt-$node" 2>/dev/null)" ] || break
            sleep 0.1
        done
        kill_node "$node" KILL
        ip netns delete "rt-$node" 2>/dev/null || true
        # The kernel removes it with the namespace, which lasts as long as a process there is still ending.
        ip link delete "rt-$node" 2>/dev/null || true
    done
    ip link delete "$bridge" 2>/dev/null || true
    rm -rf "$state"
}

case ${1:-} in
    up) up ;;
    down) down ;;
    start) start "${2:?which node: head or worker}" ;;
    take) kill -TERM "$(cat "$state/${2:?which node: head or worker}.pid")" ;;
    kill) kill_node "${2:?which node: head or worker}" KILL ;;
    alive) is_alive "${2:?which node: head or worker}" ;;
    cut) ip link set rt-worker down ;;
    mend) ip link set rt-worker up ;;
    exec)
        shift
        RAY_ADDRESS="${address[head]}:6379" within head "$@"
        ;;
    *)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
        exit 2
        ;;
esac
