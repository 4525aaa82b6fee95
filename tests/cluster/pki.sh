# shellcheck shell=bash
# Keys, certificates and kubeconfigs of one cluster, in $dir; those that are there stay. Expects $port.

pki() { # pki NAME SUBJECT [SUBJECT_ALT_NAMES]: a key and a certificate from the cluster's CA
  local file=$dir/pki/$1 extensions="keyUsage=digitalSignature,keyEncipherment
extendedKeyUsage=serverAuth,clientAuth"
  [ ! -s "$file.crt" ] || return 0
  [ -z "${3:-}" ] || extensions+=$'\n'"subjectAltName=$3"
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$file.key" -subj "$2" 2>/dev/null |
    openssl x509 -req -CA "$dir/pki/ca.crt" -CAkey "$dir/pki/ca.key" -days 3650 -out "$file.crt" \
      -set_serial "0x$(openssl rand -hex 8)" -extfile <(echo "$extensions") 2>/dev/null
}

kubeconfig() { # kubeconfig NAME: DIR/NAME.kubeconfig with the key pair of that name
  local file=$dir/pki/$1
  cat >"$dir/$1.kubeconfig" <<C
apiVersion: v1
kind: Config
current-context: loraline
clusters: [{name: loraline, cluster: {server: "https://127.0.0.1:$port", certificate-authority-data: $(base64 -w0 "$dir/pki/ca.crt")}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$file.crt"), client-key-data: $(base64 -w0 "$file.key")}}]
contexts: [{name: loraline, context: {cluster: loraline, user: $1, namespace: default}}]
C
}

control_plane_keys() {
  local name
  [ -s "$dir/pki/ca.crt" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
    -keyout "$dir/pki/ca.key" -out "$dir/pki/ca.crt" -subj /CN=loraline-ca \
    -addext keyUsage=critical,keyCertSign,digitalSignature 2>/dev/null
  [ -s "$dir/pki/sa.key" ] || openssl genrsa -out "$dir/pki/sa.key" 2048 2>/dev/null
  [ -s "$dir/pki/sa.pub" ] || openssl rsa -in "$dir/pki/sa.key" -pubout -out "$dir/pki/sa.pub" 2>/dev/null
  local names=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
  pki apiserver /CN=kube-apiserver "$names,IP:127.0.0.1,IP:$service_ip,IP:$node_ip"
  pki front-proxy /CN=front-proxy
  pki apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client
  pki admin /O=system:masters/CN=admin
  pki controller-manager /CN=system:kube-controller-manager
  pki scheduler /CN=system:kube-scheduler
  for name in admin controller-manager scheduler; do kubeconfig $name; done
}

node_keys() {
  local name
  pki kubelet /O=system:nodes/CN=system:node:node-1 "DNS:node-1,IP:$node_ip"
  pki kube-proxy /CN=system:kube-proxy
  pki coredns /O=system:masters/CN=coredns
  for name in kubelet kube-proxy coredns; do kubeconfig $name; done
}
