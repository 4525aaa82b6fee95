#!/usr/bin/env bash
# Adds fake nodes to a running cluster; kwok plays their kubelet, and nothing runs on them:
#   kwok.sh DIR NODES [GPUS]     each node with GPUS (default 8) of nvidia.com/gpu, and the label type=kwok
# Called again, it only adds nodes. STAGES: a file with Stages of one's own (default: kwok's own fast ones, with which a
# pod runs at once and a Job's pod succeeds at once). KWOK_ARGS: more flags, split at spaces.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=$(cd "${1:?the folder of a cluster}" && pwd)
nodes=${2:?how many nodes}
gpus=${3:-8}
. "$here/lib.sh"
bin=$("$here/programs.sh" control-plane kwok | tail -n 1)
kwok=$("$here/programs.sh" kwok | tail -n 1)
kubectl() { "$bin/kubectl" --kubeconfig="$dir/admin.kubeconfig" "$@"; }

# shellcheck disable=SC2086,SC2119 # more flags; the programs of this cluster
running | grep -e '-kwok$' >/dev/null || start kwok "$kwok/kwok" --kubeconfig="$dir/admin.kubeconfig" --cidr=10.246.0.0/16 \
  --config="${STAGES:-${kwok%/bin}/kwok-stages.yaml}" --manage-nodes-with-label-selector=type=kwok \
  --node-lease-duration-seconds=40 ${KWOK_ARGS:-}
for i in $(seq "$nodes"); do
  resources="{cpu: 64, memory: 512Gi, pods: 110, nvidia.com/gpu: $gpus}"
  cat <<N
apiVersion: v1
kind: Node
metadata: {name: kwok-$i, labels: {type: kwok, kubernetes.io/hostname: kwok-$i, kubernetes.io/os: linux}}
status: {capacity: $resources, allocatable: $resources}
---
N
done | kubectl apply -f - >/dev/null
kubectl wait --for=condition=Ready node -l type=kwok --timeout=60s >/dev/null
