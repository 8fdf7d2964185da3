#!/usr/bin/env bash
# Makes a fresh Ubuntu or Debian machine a node: the Python and the package versions that every node has, beside the shipped checkout.
#
#   setup_node.sh [EXTRA ...]     EXTRA: a package of constraints.txt (boto3), a pinned one (NAME==VERSION), or train
#
# A second time it changes nothing. Needs python3 with venv (to install uv), make and a package index.
set -euo pipefail

PYTHON_VERSION=3.11.18 # the same everywhere: Ray refuses to mix
checkout=$(cd "$(dirname "$0")/.." && pwd)
case ${EARSHOT_WEIGHTS:-} in *EDIT-*)
    echo "setup_node: the launch file still says $EARSHOT_WEIGHTS: put the bucket's name there" >&2
    exit 2
    ;;
esac
uv=$HOME/.uv/bin/uv
uv_version=$(sed -n 's/^UV_VERSION := //p' "$checkout/Makefile")

if ! [ -x "$uv" ]; then
    python3 -m venv "$HOME/.uv"
    "$HOME/.uv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$uv_version"
fi
"$uv" python install --quiet "$PYTHON_VERSION"
make -C "$checkout" PYTHON="$("$uv" python find --managed-python "$PYTHON_VERSION")" .venv/.core

cd "$checkout"
for extra in "$@"; do
    case $extra in
    train) what=(--editable '.[train]') ;;
    *) what=("$extra") ;;
    esac
    VIRTUAL_ENV=.venv .venv/bin/uv pip install --quiet -c constraints.txt "${what[@]}"
done

# What a login shell on this node finds: the commands, and the store of the weights.
cat >"$HOME/.earshot" <<ENVIRONMENT
export PATH=$checkout/.venv/bin:\$PATH
export PYTHONPATH=$checkout
export RAY_AUTH_MODE=token
export EARSHOT_WEIGHTS=${EARSHOT_WEIGHTS:-}
ENVIRONMENT
grep -qs '\.earshot$' "$HOME/.bashrc" || echo '. ~/.earshot' >>"$HOME/.bashrc"
