#!/usr/bin/env bash
# Builds the images and pushes them to a registry that a cluster pulls from: push.sh HOST/PATH [NAME...]
# NAME: operator, trainer, s3, server (default: all). Prints one line NAME=HOST/PATH/... for each; a tag that is there
# already is not pushed again, for tags are made from content. Builds with docker where one runs, else with buildah
# (LORALINE_ENGINE says which), on LORALINE_BASE, or on the Dockerfiles' default, or where that cannot be pulled on a
# Debian of base.sh. A registry on this machine's loopback may speak plain HTTP.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
registry=${1:?a registry, such as host:port/path}
registry=${registry%/}
host=${registry%%/*}
shift
[ $# -gt 0 ] || set -- operator trainer s3 server

case $registry in
  *://*) die "the registry is $registry: leave ${registry%%://*}:// out, as in ${registry#*://}" ;;
  *[A-Z]*) die "the registry is $registry, and names of images are in lower case: $(tr '[:upper:]' '[:lower:]' <<<"$registry")" ;;
esac
[[ $host == *[.:]* || $host == localhost ]] ||
  die "the registry is $registry, which names no host: give it as host/path, such as docker.io/$registry"
case $host in
  localhost | localhost:* | 127.*) scheme=http verify=false ;;
  *) scheme=https verify=true ;;
esac

if [ -z "${LORALINE_ENGINE:-}" ]; then
  if docker info >/dev/null 2>&1; then export LORALINE_ENGINE=docker; else export LORALINE_ENGINE=buildah; fi
fi

check_registry() { # before anything is built: it answers, and where it wants a login there is one
  local status error
  error=$(mktemp)
  status=$(curl --silent --show-error --max-time 15 --output /dev/null --write-out '%{http_code}' "$scheme://$host/v2/" 2>"$error") || true
  [ "$status" != 000 ] || die "the registry $host does not answer: $(cat "$error"); check the name, and that it runs"
  rm -f "$error"
  if [ "$status" = 401 ] && [ "$LORALINE_ENGINE" = buildah ] && ! skopeo login --get-login "$host" >/dev/null 2>&1; then
    die "the registry $host wants a login, and this machine has none: buildah login $host"
  fi
}

choose_base() { # the Dockerfiles' default where it is in reach
  local default
  [ -z "${LORALINE_BASE:-}" ] || return 0
  default=$(sed -n 's/^ARG BASE=//p' "$root/operator/Dockerfile")
  if [ "$LORALINE_ENGINE" = docker ] || skopeo --command-timeout 20s inspect --raw "docker://$default" >/dev/null 2>&1; then
    export LORALINE_BASE=$default
  else
    say "$default cannot be pulled here: the images stand on a Debian of its packages instead"
  fi
}

is_there() { # is_there TARGET
  [ "$LORALINE_ENGINE" = buildah ] && skopeo --command-timeout 20s inspect --raw --tls-verify="$verify" "docker://$1" >/dev/null 2>&1
}

upload() { # upload NAME TARGET; in gzip, which every engine reads: zstd made a layer 12 % smaller in as much CPU time
  if [ "$LORALINE_ENGINE" = docker ]; then
    docker tag "$1" "$2" && docker push "$2"
  else
    buildah push --tls-verify="$verify" "$1" "docker://$2"
  fi
}

push() { # push NAME TARGET: what the registry answered, and when that is a refusal, what mends it
  upload "$@" && return 0
  say "if $host refused it: log in as one who may push to ${2%:*} ($LORALINE_ENGINE login $host)"
  return 1
}

[ "$LORALINE_ENGINE" = docker ] || "$root/tests/tools/setup.sh" system
check_registry
choose_base
. "$root/tests/images/lib.sh"
for what in "$@"; do # one after the other, so that a refusal is known before the next is built
  name=$("$here/build.sh" "$what" | sed -n "s/^$what=//p")
  target=$registry/${name#localhost/}
  is_there "$target" || timed "pushing $target" push "$name" "$target"
  echo "$what=$target"
done
