#!/usr/bin/env bash
# Cuts the power of a cluster's node, and gives it back: power.sh DIR off|on
# Off: the node's programs and its containers are killed at once, and what a machine holds in memory alone is gone. What
# is on its disk stays: images, logs, volumes. The control plane, which is on no node, runs on in the box.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=$(cd "${1:?the folder of a cluster}" && pwd)
how=${2:?off or on}
. "$here/lib.sh"
. "$here/pki.sh"
. "$here/node.sh"
# shellcheck disable=SC2119 # the programs of this cluster, not of an argument
box=$(running | grep -e '-box$' || true)
[ -n "$box" ] || fail "no node is in $dir: up.sh node $dir starts one"
read -r pid _ <"$dir/pids/$box"
enter=(nsenter "--target=$pid" --mount --net)
umask 077

off() {
  end_cgroup node
  end_cgroup kubepods
  rm -f "$dir"/pids/*-{containerd,kubelet,kube-proxy,coredns}
  "${enter[@]}" bash -euo pipefail -c '
    awk "\$2 ~ \"^/(run/containerd|run/netns|var/lib/kubelet)/\" {print \$2}" /proc/self/mounts | sort -r | xargs -r umount
    find /run/containerd /run/netns -xdev -mindepth 1 -not -name api.sock -delete
    ip link delete cni0
    nft flush ruleset'
}

on() {
  make_cgroup
  bin=$("$here/programs.sh" node | tail -n 1)
  read -r port _ <"$dir/ports"
  containerd_up
  node_up
  await "the node, DNS and Service addresses" node_ready
}

case $how in off | on) "$how" ;; *) fail "knows off and on, not: $how" ;; esac
