#!/usr/bin/env bash
# Runs a command where the node is, as one logged in on it would: in.sh DIR COMMAND... Pods and Services have their
# addresses only there; `in.sh DIR ctr -n k8s.io images import FILE` gives the node an image.
set -euo pipefail
dir=$(cd "${1:?a folder}" && pwd)
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck disable=SC2119 # the programs of this cluster, not of an argument
box=$(running | grep -e '-box$' || true)
[ -n "$box" ] || fail "no node runs in $dir: up.sh node $dir starts one"
read -r pid _ <"$dir/pids/$box"
export KUBECONFIG=$dir/admin.kubeconfig
exec nsenter --target="$pid" --mount --net --wd="$PWD" "${@:2}"
