#!/usr/bin/env bash
# Started on a worker after `ray start`; goes on in the background until the node's raylet ends, and then ends what that leaves behind.
#
# A worker that has lost its head ends by itself, but not whole: Ray's helpers stay for a minute, and HAProxy, which still answers on the
# service's port, for ever. Only processes of this raylet are ended: they were its children and still have Ray's name, or carry its number in
# their environment, or its session's name.
set -euo pipefail

watch() {
    local raylet=$1 session=$2 children=" " left process
    while kill -0 "$raylet" 2>/dev/null; do
        children=" $({ pgrep -P "$raylet" || true; } | tr '\n' ' ') "
        sleep 1
    done
    for signal in TERM KILL; do
        left=()
        for process in /proc/[0-9]*; do
            if is_of_raylet "$process"; then left+=("${process#/proc/}"); fi
        done
        [ ${#left[@]} -gt 0 ] || return 0
        kill -s "$signal" "${left[@]}" 2>/dev/null || true
        sleep 3
    done
}

is_of_raylet() {
    if [[ $children = *" ${1#/proc/} "* ]] && grep -qsa '^ray::' "$1/cmdline"; then return 0; fi
    grep -zqsx "RAY_RAYLET_PID=$raylet" "$1/environ" || grep -qsaF -- "--session-dir=$session" "$1/cmdline"
}

if [ "${1:-}" = --watch ]; then
    watch "$2" "$3"
    exit
fi
raylet=$(pgrep -n -x -u "$(id -u)" raylet) || { echo "nodes_end: no raylet runs here" >&2; exit 1; }
nohup setsid "$0" --watch "$raylet" "$(readlink -f /tmp/ray/session_latest)" </dev/null >/dev/null 2>&1 &
