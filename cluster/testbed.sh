#!/usr/bin/env bash
# Hosts to try cluster/onprem.yaml on, made on this one machine: a head, two workers and the desk from which they are started.
#
#   cluster/testbed.sh up                 make the hosts and, from the desk, cluster/up.sh: three nodes, the service, every node checked
#   cluster/testbed.sh hosts              make the hosts only
#   cluster/testbed.sh can                say whether this machine can, and if not, why
#   cluster/testbed.sh run HOST COMMAND   run a shell command on desk, head, worker1 or worker2
#   cluster/testbed.sh down               `ray down`, and nothing is left
#
# A host is a set of Linux namespaces: its own network address, processes, name and mounts, with its own sshd, home, /tmp and /dev/shm in
# memory. All of them live inside one more, the room, whose end takes everything along. So `ray stop`, which ends every Ray process that it
# sees, sees no other cluster of this machine. The virtual environment is this checkout's, mounted read-only where `make` would make it; the
# code is what `ray up` ships. They share the weights of EARSHOT_WEIGHTS, a folder; without it the starter weights.
# Needs root, iproute2, openssh-server and rsync.
set -euo pipefail
shopt -s extglob

checkout=$(cd "$(dirname "$0")/.." && pwd)
self=$checkout/cluster/testbed.sh
state=${EARSHOT_TESTBED:-/tmp/earshot-testbed}
net=10.77.83
hosts="desk:2 head:10 worker1:11 worker2:12"
node_cpus=${EARSHOT_TESTBED_CPUS:-2}
weights=${EARSHOT_WEIGHTS:-$checkout/models/starter}
store_bytes=$((100 << 20))

fail() {
    echo "testbed: $*" >&2
    exit 2
}

check_machine() {
    [ "$(id -u)" = 0 ] || fail "needs root: namespaces with addresses of their own are root's to make. Try: sudo $self up"
    for need in ip ssh-keygen rsync nsenter unshare setsid /usr/sbin/sshd; do
        command -v "$need" >/dev/null || fail "$need is not installed: apt-get install iproute2 openssh-server rsync util-linux"
    done
    [ -x "$checkout/.venv/bin/ray" ] || fail "no virtual environment in $checkout: run make setup"
    unshare --net --mount --pid --uts --fork --mount-proc \
        sh -c 'mount -t tmpfs tmpfs /mnt && ip link add name try0 type veth peer name try1 && ip link add name try2 type bridge' 2>/dev/null ||
        fail "this machine allows no namespaces (in a container: start it with --privileged)"
}

# The first process of the room, as this shell sees it; nothing where there is no room.
room_pid() {
    local outer
    outer=$(cat "$state/room.pid" 2>/dev/null) || return 1
    grep -qsa "$self" "/proc/$outer/cmdline" || return 1
    cat "/proc/$outer/task/$outer/children" | cut -d' ' -f1
}

make_hosts() {
    check_machine
    if room_pid >/dev/null; then
        echo "testbed: the hosts are there" >&2
        return
    fi
    make -q -C "$checkout" .venv/.core || fail "the virtual environment is older than its pins: run make setup"
    [ -d "$weights" ] || fail "EARSHOT_WEIGHTS=$weights is no folder"
    rm -rf "$state"
    mkdir -p "$state" -m 700
    cp -r "$weights" "$state/weights"
    ssh-keygen -q -t ed25519 -N '' -C testbed -f "$state/key"
    ssh-keygen -q -t ed25519 -N '' -C testbed -f "$state/host_key"
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$state/auth_token"
    cat >"$state/sshd_config" <<END
HostKey $state/host_key
AuthorizedKeysFile $state/key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
END
    overlay
    setsid unshare --net --mount --pid --uts --fork --mount-proc --kill-child \
        "$self" __room </dev/null >"$state/room.log" 2>&1 &
    echo $! >"$state/room.pid"
    for host in $hosts; do
        wait_for 20 "the host ${host%:*}" test -e "$state/${host%:*}.ready"
    done
}

# onprem.yaml with these hosts filled in.
overlay() {
    "$checkout/.venv/bin/python" - "$checkout/cluster/onprem.yaml" "$net" "$state/key" >"$state/cluster.yaml" <<'END'
import sys
import yaml

path, net, key = sys.argv[1:]
with open(path) as stream:
    config = yaml.safe_load(stream)
config["provider"] |= {"head_ip": f"{net}.10", "worker_ips": [f"{net}.11", f"{net}.12"]}
config["auth"] |= {"ssh_user": "root", "ssh_private_key": key}
yaml.safe_dump(config, sys.stdout, sort_keys=False)
END
}

# The room: a bridge, and a host on each of its ports. Runs as the first process of its namespaces.
run_room() {
    ip link set lo up
    ip link add name bridge type bridge
    ip addr add "$net.1/24" dev bridge
    ip link set bridge up
    for host in $hosts; do
        local name=${host%:*} address=$net.${host#*:}
        unshare --net --mount --pid --uts --fork --mount-proc --kill-child "$self" __host "$name" "$address" &
        local outer=$! inner=
        while [ -z "$inner" ]; do inner=$(cut -d' ' -f1 "/proc/$outer/task/$outer/children"); done
        echo "$inner" >"$state/$name.pid"
        ip link add name "$name" type veth peer name eth0 netns "$inner"
        ip link set "$name" master bridge up
    done
    while true; do wait || true; sleep 3600 & wait $! || true; done
}

# One host: the first process of its namespaces becomes its sshd.
run_host() {
    local name=$1 address=$2 home python own
    until ip link set eth0 up 2>/dev/null; do sleep 0.05; done
    ip link set lo up
    ip addr add "$address/24" dev eth0
    ip route add default via "$net.1"
    hostname "$name"

    home=$(getent passwd root | cut -d: -f6)
    python=$("$checkout/.venv/bin/python" -c 'import sys; print(sys.base_prefix)')
    mount -t tmpfs -o mode=755 run /run
    own=/run/own
    mkdir -p /run/sshd $own/home/.ray $own/shm $own/state $own/checkout $own/python
    mkdir -m 1777 $own/tmp
    mount --bind "$state" $own/state
    mount --bind "$checkout" $own/checkout
    mount --bind "$python" $own/python
    printf 'export RAY_OVERRIDE_RESOURCES=%q\n' \
        "{\"CPU\": $node_cpus, \"object_store_memory\": $store_bytes}" >$own/home/.bashrc
    if [ "$name" = desk ]; then
        echo "export PATH=$checkout/.venv/bin:\$PATH RAY_UP_enable_autoscaler_v2=0" >>$own/home/.bashrc
        install -m 600 "$state/auth_token" $own/home/.ray/auth_token
    else
        mkdir -p $own/home/earshot/.venv
        mount --bind "$checkout/.venv" $own/home/earshot/.venv
        mount -o remount,bind,ro $own/home/earshot/.venv
        echo "export EARSHOT_WEIGHTS=file://$state/weights EARSHOT_DOWNLOAD=false" >>$own/home/.bashrc
    fi
    mount --rbind $own/shm /dev/shm
    mount --rbind $own/home "$home"
    mount --rbind $own/tmp /tmp
    # What lay below a place that is covered now comes back. Where the checkout was is what `ray up` ships: its virtual environment's
    # programs name that path.
    mkdir -p "$state" "$python" "$checkout"
    mount --rbind $own/state "$state"
    mount --rbind $own/python "$python"
    if [ "$name" = desk ]; then mount --rbind $own/checkout "$checkout"; else mount --rbind "$home/earshot" "$checkout"; fi
    touch "$state/$name.ready"
    exec /usr/sbin/sshd -D -e -f "$state/sshd_config"
}

# A shell command on a host, in a login's environment: nothing of the caller's.
run_on() {
    local name=$1 room inner
    shift
    room=$(room_pid) || fail "there are no hosts: $self up"
    inner=$(cat "$state/$name.pid" 2>/dev/null) || fail "no host named $name; there are: ${hosts//:+([0-9])/}"
    nsenter -t "$room" -n -m -p -u nsenter -t "$inner" -n -m -p -u \
        env -i HOME="$(getent passwd root | cut -d: -f6)" USER=root LOGNAME=root TERM="${TERM:-dumb}" LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        bash -c "cd; . ./.bashrc; $*"
}

# Until the command succeeds, at most so many seconds.
wait_for() {
    local seconds=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "$what: not there after $seconds s; see $state/*.log"
        sleep 0.2
    done
}

up() {
    trap down EXIT # what fails leaves nothing behind, either
    make_hosts
    local began=$SECONDS
    echo "testbed: the cluster comes up, a minute or two; see $state/up.log" >&2
    run_on desk "cd $checkout && cluster/up.sh $state/cluster.yaml" >"$state/up.log" 2>&1 ||
        { tail -40 "$state/up.log" >&2; fail "cluster/up.sh failed"; }
    echo "testbed: three nodes and the service after $((SECONDS - began)) s. Next: $self run head 'ray status; serve status'" >&2
    trap - EXIT
}

down() {
    trap - EXIT
    local room outer
    if room=$(room_pid); then
        if [ -e "$state/up.log" ]; then
            timeout 60 "$self" run desk "cd $checkout && ray down -y $state/cluster.yaml" >"$state/down.log" 2>&1 || true
        fi
        outer=$(cat "$state/room.pid")
        kill -KILL "$room" 2>/dev/null || true
        wait_for 20 "the end of the room" eval "! [ -e /proc/$outer ] || grep -qs zombie /proc/$outer/status"
    fi
    rm -rf "$state"
    echo "testbed: nothing is left" >&2
}

case ${1:-} in
up) up ;;
hosts) make_hosts ;;
can) check_machine ;;
run) [ $# -ge 3 ] || fail "usage: $self run HOST COMMAND"; run_on "${@:2}" ;;
down) down ;;
__room) run_room ;;
__host) run_host "$2" "$3" ;;
*) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$self"; exit 2 ;;
esac
