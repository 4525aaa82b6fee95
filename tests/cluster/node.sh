# shellcheck shell=bash
# The node of up.sh: a box of namespaces (mounts, network) in which everything runs at its usual paths and ports.
# The box has no way out to any other network; a pair of socat processes brings 127.0.0.1:PORT of the host to the
# API server over a Unix socket. The cgroup of the box holds all its processes, for down.sh. Images come from
# tests/images, or from a registry that registry.sh brings into the box.

box_up() {
  local pid
  need_node_programs
  make_cgroup
  rm -rf "${dir:?}"/{run,netns}
  mkdir -p "$dir"/{run,netns,lib/kubelet,lib/cni,logs/pods,logs/containers,cni}
  seed_containerd
  echo "nameserver $node_ip" >"$dir/resolv.conf" # CoreDNS
  : >"$dir/resolv-pods.conf"
  chmod 644 "$dir"/resolv*.conf
  start box unshare --mount --net --propagation private sleep infinity
  read -r pid _ <"$(ls "$dir"/pids/*-box)"
  until [ "$(readlink /proc/self/ns/net)" != "$(readlink "/proc/$pid/ns/net")" ]; do sleep 0.02; done
  enter=(nsenter "--target=$pid" --mount --net)
  "${enter[@]}" bash -euo pipefail -c '
    dir=$1 ip=$2
    mount --make-rshared / # among the pods of the box; the host has no part in it
    for d in containerd kubelet cni; do mount --bind "$dir/lib/$d" "/var/lib/$d"; done
    for d in pods containers; do mount --bind "$dir/logs/$d" "/var/log/$d"; done
    mount --bind "$dir/run" /run/containerd
    mount --bind "$dir/netns" /run/netns
    if [ -e /etc/resolv.conf ]; then mount --bind "$dir/resolv.conf" /etc/resolv.conf; fi
    ip link set lo up
    ip link add node0 type bridge
    ip addr add "$ip/24" dev node0
    ip link set node0 up
    ip route add default via "${ip%.*}.1" # leads nowhere; Service addresses need some route to be looked up
    echo 1 >/proc/sys/net/ipv4/ip_forward
    [ -e /proc/sys/net/bridge ] || modprobe br_netfilter
    echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
  ' box "$dir" "$node_ip"
  containerd_up
}

containerd_up() {
  containerd_files
  part=node start containerd containerd --config "$dir/containerd.toml"
}

need_node_programs() {
  local program
  [ "$(id -u)" = 0 ] || fail "a node needs root; up.sh control-plane does not"
  for program in containerd runc iptables nft conntrack socat catatonit /usr/lib/cni/bridge; do
    command -v $program >/dev/null || fail "this machine has no $program: tests/tools/setup.sh system installs it"
  done
}

make_cgroup() { # one for the box, in it one for the box and the control plane, one for what a node runs; the kubelet
  # makes one for pods beside them, and power.sh ends the latter two.
  # It weighs four programs, not one: on a busy machine a training in a pod came to 7 tokens/s.
  local hierarchy folder
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "/sys/fs/cgroup/$cgroup"/{system,node}
    for folder in /sys/fs/cgroup "/sys/fs/cgroup/$cgroup"; do
      sed 's/^/+/; s/ / +/g' "$folder/cgroup.controllers" >"$folder/cgroup.subtree_control"
    done
    [ ! -f "/sys/fs/cgroup/$cgroup/cpu.weight" ] || echo 400 >"/sys/fs/cgroup/$cgroup/cpu.weight"
    return
  fi
  for hierarchy in /sys/fs/cgroup/*/; do
    [ -f "$hierarchy/release_agent" ] || continue # not a v1 hierarchy
    mkdir -p "$hierarchy/$cgroup"/{system,node}
    [ ! -f "$hierarchy/$cgroup/cpu.shares" ] || echo 4096 >"$hierarchy/$cgroup/cpu.shares"
    [ -f "$hierarchy/cpuset.cpus" ] || continue
    for folder in "$hierarchy/$cgroup" "$hierarchy/$cgroup"/{system,node}; do
      cat "$hierarchy/cpuset.cpus" >"$folder/cpuset.cpus"
      cat "$hierarchy/cpuset.mems" >"$folder/cpuset.mems"
    done
  done
}

seed_containerd() { # a new node's images: layers as hard links, for nobody ever writes to them; the data bases as copies
  local from=${LORALINE_NODE_IMAGES-${XDG_CACHE_HOME:-$HOME/.cache}/loraline/images/node} new=$dir/lib/containerd.new
  [ ! -e "$dir/lib/containerd" ] || return 0
  rm -rf "$new"
  if [ -d "$from" ]; then
    cp -al "$from/." "$new" 2>/dev/null || { # another file system
      rm -rf "$new"
      cp -a "$from/." "$new"
    }
    find "$new" -name '*.db' -exec sh -c 'cp -a "$1" "$1.copy" && mv "$1.copy" "$1"' copy {} \;
  elif [ -n "${LORALINE_NODE_IMAGES:-}" ]; then
    fail "LORALINE_NODE_IMAGES is $from, which is no folder: tests/images/build.sh node-images prints the right one"
  else
    mkdir -p "$new"
  fi
  mv "$new" "$dir/lib/containerd"
}

containerd_files() {
  cat >"$dir/cni/10-bridge.conflist" <<'C'
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
C
  cat >"$dir/containerd.toml" <<C
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true # for a root without CAP_SYS_RESOURCE
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$dir/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
C
}

box_door() { # 127.0.0.1:PORT of the host -> Unix socket -> 127.0.0.1:PORT of the box
  local enter_box=("${enter[@]}")
  start door-inside socat "UNIX-LISTEN:/run/containerd/api.sock,fork,unlink-early" "TCP:127.0.0.1:$port,nodelay"
  enter=()
  cd "$dir/run" # a Unix socket's path is short
  start door socat "TCP-LISTEN:$port,bind=127.0.0.1,reuseaddr,fork,nodelay" UNIX-CONNECT:api.sock
  cd "$here"
  enter=("${enter_box[@]}")
}

kubelet_files() {
  cat >"$dir/kubelet.yaml" <<C
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $dir/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $dir/pki/kubelet.crt
tlsPrivateKeyFile: $dir/pki/kubelet.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
clusterDomain: cluster.local
clusterDNS: [$node_ip]
resolvConf: $dir/resolv-pods.conf
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 5s
C
  # conntrack's limits are the machine's: a network namespace cannot set them.
  cat >"$dir/kube-proxy.yaml" <<C
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.244.0.0/16
hostnameOverride: node-1
oomScoreAdj: 0
clientConnection: {kubeconfig: $dir/kube-proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
C
  cat >"$dir/Corefile" <<C
. {
  bind $node_ip
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $dir/coredns.kubeconfig
    pods insecure
  }
}
C
}

node_up() {
  local part=node
  node_keys
  kubelet_files
  await containerd "${enter[@]}" ctr version
  python3 "$here/pause_image.py" "$(command -v catatonit)" "$dir/pause.tar"
  "${enter[@]}" ctr -n k8s.io images import "$dir/pause.tar" >/dev/null
  # shellcheck disable=SC2086 # more flags, split at spaces; so below
  start kubelet "$bin/kubelet" --config="$dir/kubelet.yaml" --kubeconfig="$dir/kubelet.kubeconfig" \
    --hostname-override=node-1 --node-ip="$node_ip" ${KUBELET_ARGS:-}
  # shellcheck disable=SC2086
  start kube-proxy "$bin/kube-proxy" --config="$dir/kube-proxy.yaml" ${PROXY_ARGS:-}
  start coredns "$bin/coredns" -conf "$dir/Corefile"
}

node_ready() { # the kubelet lives and says so, and DNS and kube-proxy lead to the API server
  "${enter[@]}" curl -sf -m 2 http://127.0.0.1:10248/healthz && get /api/v1/nodes/node-1 | python3 -c 'import json, sys
sys.exit(not any(c["type"] == "Ready" and c["status"] == "True" for c in json.load(sys.stdin)["status"]["conditions"]))' &&
    "${enter[@]}" curl -skf -m 2 https://kubernetes.default.svc.cluster.local/readyz
}
