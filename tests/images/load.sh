#!/usr/bin/env bash
# Brings images to the node of a running cluster: load.sh DIR [NAME...]
# NAME is a name that build.sh printed; default: operator, trainer, s3 and server, built where needed. Only what the node
# lacks is carried over: on a node that began with LORALINE_NODE_IMAGES, the thin layers of our code.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
. "$root/tests/images/lib.sh"
dir=$(cd "${1:?the folder of a cluster}" && pwd)
shift
[ $# -gt 0 ] || mapfile -t built < <("$here/build.sh" operator trainer s3 server)
[ $# -gt 0 ] || set -- "${built[@]#*=}"

node_ctr() { "$root/tests/cluster/in.sh" "$dir" ctr --namespace k8s.io "$@"; }
there=$(node_ctr images list --quiet)
one_at_a_time images
import() {
  lay_out "$1"
  python3 "$here/archive.py" "$images/layout" --without "$dir/lib/containerd/io.containerd.content.v1.content/blobs/sha256" "$1" |
    node_ctr images import -
}
for name in "$@"; do
  grep -qxF "$name" <<<"$there" || timed "loading ${name#localhost/}" import "$name"
done
