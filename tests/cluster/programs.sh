#!/usr/bin/env bash
# Finds the cluster's programs and prints their folder on the last line of stdout.
#   programs.sh [GROUP...]     GROUP: control-plane (default), node, kwok
# They come from, in this order: the folder LORALINE_K8S_BIN, the cache, Kubernetes', etcd's and CoreDNS' own download
# sites with their published sha256, a build from the Go modules here (15 minutes from nothing on two cores). Versions
# are go.mod's in every case but the first. GOFLAGS=-p=N bounds the compilers at work.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$here/../tools/lib.sh"
. "$here/../tools/download.sh"

control_plane=(etcd kube-apiserver kube-controller-manager kube-scheduler kubectl)
node=(kubelet kube-proxy coredns)

pinned() { # pinned MODULE GO_MOD: its version there
  awk -v module="$1" '{sub(/^require /, "")} $1 == module && $2 ~ /^v/ {print $2; exit}' "$2"
}
kubernetes=$(pinned k8s.io/kubernetes "$here/go.mod")
etcd=$(pinned go.etcd.io/etcd/server/v3 "$here/go.mod")
coredns=$(pinned github.com/coredns/coredns "$here/dns/go.mod")
kwok=$(pinned sigs.k8s.io/kwok "$here/kwok/go.mod")
bin=$cache/k8s-$kubernetes/bin

release() { # release PROGRAM: from its makers' site; false when that is not in reach
  local url
  case $1 in
    etcd)
      url=https://github.com/etcd-io/etcd/releases/download/$etcd
      download "$bin" etcd "$url/etcd-$etcd-linux-amd64.tar.gz" "$url/SHA256SUMS" ;;
    coredns)
      url=https://github.com/coredns/coredns/releases/download/$coredns/coredns_${coredns#v}_linux_amd64.tgz
      download "$bin" coredns "$url" "$url.sha256" ;;
    *)
      url=https://dl.k8s.io/release/$kubernetes/bin/linux/amd64/$1
      download "$bin" "$1" "$url" "$url.sha256" ;;
  esac
}

build() { # build MODULE_FOLDER TAGS LDFLAGS PACKAGE...: one go build, for all that is missing of a module
  local folder=$1 tags=$2 flags=$3 tmp package name what
  shift 3
  what=${*##*/}
  what=${what/v3/etcd}
  need_go "${what:=coredns}"
  tmp=$(mktemp -d "$bin/build.XXXXXX")
  (
    cd "$folder"
    CGO_ENABLED=0 GOTOOLCHAIN=local GOWORK=off timed "building $what from Go modules (the longest of it about 10 minutes)" \
      go build -mod=readonly -trimpath -buildvcs=false -tags "$tags" -ldflags "-s -w $flags" -o "$tmp/" "$@"
  )
  for package in "$@"; do
    case $package in
      ./) name=dns installed=coredns ;;
      */etcd/server/v3) name=server installed=etcd ;;
      *) name=${package##*/} installed=$name ;;
    esac
    mv "$tmp/$name" "$bin/$installed"
  done
  rmdir "$tmp"
}

build_kubernetes() { # what upstream's own build sets; without it the programs call themselves v0.0.0-master
  local minor=${kubernetes#v1.} package flags="" packages=()
  for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    flags+=" -X $package.gitVersion=$kubernetes -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
    flags+=" -X $package.gitTreeState=clean -X $package.gitCommit=unknown"
  done
  for package in "$@"; do
    if [ "$package" = etcd ]; then packages+=(go.etcd.io/etcd/server/v3); else packages+=("k8s.io/kubernetes/cmd/$package"); fi
  done
  build "$here" selinux,notest,grpcnotrace "$flags" "${packages[@]}"
}

missing() { # missing PROGRAM...: those of them that $bin lacks
  local program
  for program in "$@"; do [ -x "$bin/$program" ] || echo "$program"; done
}

obtain() { # obtain PROGRAM...
  local program rest=()
  [ -n "$(missing "$@")" ] || return 0
  mkdir -p "$bin"
  one_at_a_time "k8s-$kubernetes"
  for program in $(missing "$@"); do release "$program" || rest+=("$program"); done
  for program in "${rest[@]}"; do
    [ "$program" != coredns ] || build "$here/dns" "" "" ./
  done
  rest=("${rest[@]/coredns/}")
  # shellcheck disable=SC2206 # drops the empty word
  rest=(${rest[*]})
  [ ${#rest[@]} -eq 0 ] || build_kubernetes "${rest[@]}"
}

obtain_kwok() { # and its own Stages, without which it does nothing: nodes are ready, pods run at once
  local stages=${bin%/bin}/kwok-stages.yaml source file
  [ ! -x "$bin/kwok" ] || [ ! -s "$stages" ] || return 0
  mkdir -p "$bin"
  one_at_a_time "k8s-$kubernetes"
  [ -x "$bin/kwok" ] || build "$here/kwok" "" "-X sigs.k8s.io/kwok/pkg/consts.Version=$kwok" sigs.k8s.io/kwok/cmd/kwok
  source=$(cd "$here/kwok" && go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage
  for file in node/fast/node-initialize node/heartbeat-with-lease/node-heartbeat-with-lease pod/fast/pod-{ready,complete,delete}; do
    cat "$source/$file.yaml"
    echo ---
  done >"$stages.new"
  mv "$stages.new" "$stages"
}

given() { # given FOLDER PROGRAM...: the user's own folder has to hold them all
  bin=$1
  shift
  local lacks
  lacks=$(missing "$@" | tr '\n' ' ')
  [ -z "$lacks" ] || die "LORALINE_K8S_BIN is $bin, and that folder lacks: ${lacks% }; put them there, or unset it"
}

[ $# -gt 0 ] || set -- control-plane
for group in "$@"; do
  case $group in
    control-plane) programs=("${control_plane[@]}") ;;
    node) programs=("${control_plane[@]}" "${node[@]}") ;;
    kwok) obtain_kwok; continue ;;
    *) die "knows the groups control-plane, node and kwok, not: $group" ;;
  esac
  if [ -n "${LORALINE_K8S_BIN:-}" ]; then given "$LORALINE_K8S_BIN" "${programs[@]}"; else obtain "${programs[@]}"; fi
done
echo "$bin"
