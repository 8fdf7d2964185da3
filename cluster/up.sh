#!/usr/bin/env bash
# One command from a launch file to a checked service:  cluster/up.sh cluster/aws.yaml
#
# Makes the cluster's token and the service's API key where there are none (~/.ray/auth_token, ~/.ray/earshot_api_key), starts the nodes,
# waits for those that the file wants at rest, deploys serve/earshot.yaml and checks every node. To do again after a change of the code.
set -euo pipefail

nodes_timeout_s=1200

fail() {
    echo "up: $*" >&2
    exit 2
}

# Head and workers that the file wants at rest.
wanted_nodes() {
    python - "$1" <<'PYTHON'
import sys

import yaml

with open(sys.argv[1]) as file:
    config = yaml.safe_load(file)
types = config.get("available_node_types", {}).values()
print(1 + len(config["provider"].get("worker_ips", [])) + sum(node_type.get("min_workers", 0) for node_type in types))
PYTHON
}

running_nodes() {
    ray status 2>/dev/null | awk '/^Active:/ {on = 1} /^Pending:/ {on = 0} on && /^ [0-9]+ / {sum += $1} END {print sum + 0}'
}

# What is done on the head, where this file is, too.
on_head() {
    until [ "$(running_nodes)" -ge "$1" ]; do
        [ "$SECONDS" -lt "$nodes_timeout_s" ] || fail "not $1 nodes within $nodes_timeout_s s; ray status, and /tmp/ray/session_latest/logs/monitor*"
        sleep 5
    done
    EARSHOT_API_KEYS=$(cat ~/.ray/earshot_api_key)
    export EARSHOT_API_KEYS
    earshot cluster deploy
    earshot cluster check
}

if [ "${1:-}" = --on-head ]; then
    on_head "$2"
    exit
fi

cd "$(dirname "$0")/.."
config=${1:-}
[ -f "$config" ] || fail "no launch file '$config'; use: cluster/up.sh cluster/aws.yaml, gcp.yaml or onprem.yaml"
export PATH=${EARSHOT_BIN:-$PWD/.venv/bin}:$PATH PYTHONPATH=$PWD
export RAY_UP_enable_autoscaler_v2=0 # Ray 2.60's second one starts only one of two workers on hosts of your own
umask 077
mkdir -p ~/.ray
for secret in auth_token earshot_api_key; do
    [ -s ~/.ray/$secret ] || head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >~/.ray/$secret
done
ray up -y --no-config-cache "$config"
ray rsync-up "$config" ~/.ray/earshot_api_key '~/.ray/earshot_api_key'
ray exec "$config" "bash ~/earshot/cluster/up.sh --on-head $(wanted_nodes "$config")"
echo "up: the service, on http://127.0.0.1:8000 while this runs:  ray attach -p 8000 $config     (its key: ~/.ray/earshot_api_key)"
echo "up: the dashboard:  ray dashboard $config     the end:  ray down -y $config"
