#!/usr/bin/env bash
# Starts a Kubernetes cluster that keeps its data, keys, logs and pids in DIR; an existing DIR goes on with its data.
#   up.sh control-plane DIR [PORT]   etcd, API server, controller manager, scheduler on 127.0.0.1
#   up.sh node DIR [PORT]            the same with containerd, kubelet and kube-proxy, in namespaces of its own (root)
# PORT: the API server's on 127.0.0.1 (default: a free one). The admin's kubeconfig is DIR/admin.kubeconfig.
# In the environment: LORALINE_NODE_IMAGES, a folder of tests/images/build.sh whose images a new node starts with
# (default: the one that was made last; empty: none);
# APISERVER_ARGS, CONTROLLER_MANAGER_ARGS, SCHEDULER_ARGS, KUBELET_ARGS, PROXY_ARGS, ETCD_ARGS: more flags, split at
# spaces. Nothing is pulled and nothing is installed here: tests/tools/setup.sh does that.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mode=${1:?control-plane or node}
dir=${2:?a folder}
case $mode in control-plane | node) ;; *) echo "up.sh: knows control-plane and node, not: $mode" >&2; exit 2 ;; esac
bin=$("$here/programs.sh" "$mode" | tail -n 1)
mkdir -p "$dir"/{pids,pki,logs}
dir=$(cd "$dir" && pwd)
. "$here/lib.sh"
. "$here/machine.sh"
. "$here/pki.sh"
. "$here/node.sh"
[ -z "$(running)" ] || fail "$dir is running already; down.sh $dir stops it"
rm -f "$dir"/pids/*
is_up=no
trap '[ $is_up = yes ] || "$here/down.sh" "$dir"' EXIT

# Ports stay the same when DIR is started again, so that kubeconfigs stay right.
if [ -n "${3:-}" ] || [ ! -s "$dir/ports" ]; then free_ports 3 "${3:-}" >"$dir/ports"; fi
read -r port etcd_port etcd_peer <"$dir/ports"
with_machine claim_machine
umask 077
control_plane_keys

if [ "$mode" = node ]; then
  box_up
  bind=0.0.0.0 net=(--advertise-address="$node_ip")
else # an API server whose advertised address is loopback refuses to publish itself; this one publishes nothing
  bind=127.0.0.1 net=(--advertise-address="$node_ip" --endpoint-reconciler-type=none)
fi
# shellcheck disable=SC2086 # more flags, split at spaces; so below
start etcd "$bin/etcd" --name=default --data-dir="$dir/etcd" --unsafe-no-fsync --log-level=warn \
  --listen-client-urls="http://127.0.0.1:$etcd_port" --advertise-client-urls="http://127.0.0.1:$etcd_port" \
  --listen-peer-urls="http://127.0.0.1:$etcd_peer" --initial-advertise-peer-urls="http://127.0.0.1:$etcd_peer" \
  --initial-cluster="default=http://127.0.0.1:$etcd_peer" ${ETCD_ARGS:-}
# shellcheck disable=SC2086
start kube-apiserver "$bin/kube-apiserver" --bind-address="$bind" --secure-port="$port" "${net[@]}" \
  --etcd-servers="http://127.0.0.1:$etcd_port" --service-cluster-ip-range=10.247.0.0/16 --allow-privileged=true \
  --client-ca-file="$dir/pki/ca.crt" --tls-cert-file="$dir/pki/apiserver.crt" --tls-private-key-file="$dir/pki/apiserver.key" \
  --service-account-issuer=https://kubernetes.default.svc.cluster.local \
  --service-account-key-file="$dir/pki/sa.pub" --service-account-signing-key-file="$dir/pki/sa.key" \
  --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
  --kubelet-client-certificate="$dir/pki/apiserver-kubelet.crt" --kubelet-client-key="$dir/pki/apiserver-kubelet.key" \
  --kubelet-certificate-authority="$dir/pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
  --requestheader-client-ca-file="$dir/pki/ca.crt" --requestheader-allowed-names=front-proxy \
  --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
  --requestheader-extra-headers-prefix=X-Remote-Extra- \
  --proxy-client-cert-file="$dir/pki/front-proxy.crt" --proxy-client-key-file="$dir/pki/front-proxy.key" \
  ${APISERVER_ARGS:-}
[ "$mode" != node ] || box_door
await "the API server" get /readyz
# shellcheck disable=SC2086
start kube-controller-manager "$bin/kube-controller-manager" --kubeconfig="$dir/controller-manager.kubeconfig" \
  --secure-port=0 --leader-elect=false --use-service-account-credentials=true \
  --service-account-private-key-file="$dir/pki/sa.key" --root-ca-file="$dir/pki/ca.crt" \
  --cluster-signing-cert-file="$dir/pki/ca.crt" --cluster-signing-key-file="$dir/pki/ca.key" \
  --kube-api-qps=200 --kube-api-burst=400 ${CONTROLLER_MANAGER_ARGS:-}
# shellcheck disable=SC2086
start kube-scheduler "$bin/kube-scheduler" --kubeconfig="$dir/scheduler.kubeconfig" --secure-port=0 \
  --leader-elect=false --kube-api-qps=200 --kube-api-burst=400 ${SCHEDULER_ARGS:-}
[ "$mode" != node ] || node_up
await "the default service account" get /api/v1/namespaces/default/serviceaccounts/default
[ "$mode" != node ] || await "the node, DNS and Service addresses" node_ready
is_up=yes
echo "export KUBECONFIG=$dir/admin.kubeconfig"
