#!/usr/bin/env bash
# Adds a container registry to a running cluster and prints its name: registry.sh DIR [PORT]
# It is the CNCF's own (distribution), on 127.0.0.1:PORT of the host and, for a node's containerd, at the same name in
# the node's box; over plain HTTP, as containerd, buildah and docker allow for a loopback address. It plays the registry
# that a user's cluster pulls from, keeps its data in DIR/registry, and ends with the cluster. Called again, it says its
# name. A folder without a cluster will do, too.
# REGISTRY_USERS: an htpasswd file (bcrypt); with it, the registry wants a login.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "${1:?the folder of a cluster}"/{pids,logs}
dir=$(cd "$1" && pwd)
. "$here/lib.sh"
bin=$("$here/../tools/setup.sh" registry | tail -n 1)

[ -s "$dir/registry.port" ] || free_ports 1 "${2:-}" >"$dir/registry.port"
read -r port <"$dir/registry.port"
name=127.0.0.1:$port

cat >"$dir/registry.yaml" <<C
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $dir/registry}}
http: {addr: "$name"}
C
[ -z "${REGISTRY_USERS:-}" ] || echo "auth: {htpasswd: {realm: loraline, path: $REGISTRY_USERS}}" >>"$dir/registry.yaml"

door() { # into the box, where 127.0.0.1 is another: box -> Unix socket -> host
  local pid box
  # shellcheck disable=SC2119 # the programs of this cluster, not of an argument
  box=$(running | grep -e '-box$' || true)
  [ -n "$box" ] || return 0 # no node
  read -r pid _ <"$dir/pids/$box"
  cd "$dir" # a Unix socket's path is short
  start door-registry socat UNIX-LISTEN:registry.sock,fork,unlink-early "TCP:$name"
  enter=(nsenter "--target=$pid" --mount --net "--wd=$dir")
  start door-registry-inside socat "TCP-LISTEN:$port,bind=127.0.0.1,reuseaddr,fork" UNIX-CONNECT:registry.sock
  enter=()
  await "the registry inside" nsenter "--target=$pid" --mount --net curl --silent --max-time 5 "http://$name/v2/"
}

# shellcheck disable=SC2119
if ! running | grep -e '-registry$' >/dev/null; then
  start registry env OTEL_TRACES_EXPORTER=none "$bin/registry" serve "$dir/registry.yaml"
  await "the registry" curl --silent --max-time 5 "http://$name/v2/"
  door
fi
echo "$name"
