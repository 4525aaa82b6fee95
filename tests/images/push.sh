#!/usr/bin/env bash
# Builds the images and pushes them to a registry that a cluster pulls from: push.sh REGISTRY [NAME...]
# NAME: operator, trainer, s3, server (default: all). Prints one line NAME=REGISTRY/... for each. Builds with docker where
# one runs, else with buildah; on LORALINE_BASE, or else on the Dockerfiles' default. A registry on this machine's
# loopback may speak plain HTTP.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
registry=${1:?a registry, such as host:port/path}
shift
[ $# -gt 0 ] || set -- operator trainer s3 server
if docker info >/dev/null 2>&1; then export LORALINE_ENGINE=docker; fi
default=$(sed -n 's/^ARG BASE=//p' "$root/operator/Dockerfile")
export LORALINE_BASE=${LORALINE_BASE:-$default}
. "$root/tests/images/lib.sh"

push() { # push NAME TARGET
  if [ "${LORALINE_ENGINE:-buildah}" = docker ]; then
    docker tag "$1" "$2"
    docker push "$2"
  else
    local verify=true
    case $registry in localhost[:/]* | 127.*) verify=false ;; esac
    buildah push --tls-verify="$verify" "$1" "docker://$2"
  fi
}

"$here/build.sh" "$@" | while IFS='=' read -r what name; do
  target=$registry/${name#localhost/}
  timed "pushing $target" push "$name" "$target"
  echo "$what=$target"
done
