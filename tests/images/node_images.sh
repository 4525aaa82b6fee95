#!/usr/bin/env bash
# Makes a containerd folder in which images are imported and unpacked, and prints it: node_images.sh NAME...
# A new node of the built-in cluster starts from a copy of it, with hard links for all that is large: seconds, where an
# import of torch into each cluster takes minutes. Only the newest such folder is kept; nodes that began with another
# one have links of their own. Older images go too, except for those that KEEP names. Needs root.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
. "$root/tests/images/lib.sh"

folder=$images/node-$(key_of <(printf '%s\n' "$@"))
content=io.containerd.content.v1.content/blobs/sha256
if [ -d "$folder" ]; then
  echo "$folder"
  exit
fi

forget_others() { # forget_others NAME...: all images of ours but these and those that KEEP names
  local keep image
  # shellcheck disable=SC2086 # a list
  keep=$(printf '%s\n' "$@" ${KEEP:-})
  for image in $(buildah images --format '{{.Name}}:{{.Tag}}' --filter reference='localhost/loraline-*'); do
    grep -qxF "$image" <<<"$keep" || buildah rmi "$image" >/dev/null
  done
}

rm -rf "$images"/node-* "$images/layout"
for name in "$@"; do
  timed "writing the layers of ${name#localhost/}" lay_out "$name"
done

new=$(mktemp -d "$images/node-new.XXXXXX")
state=$(mktemp -d)
cat >"$state/config.toml" <<C
version = 2
root = "$new"
state = "$state/run"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$state/containerd.sock"
C
containerd --config "$state/config.toml" >"$state/log" 2>&1 &
pid=$!
trap 'kill "$pid" 2>/dev/null && wait "$pid" || true; rm -rf "$state" "$images"/node-new.*' EXIT
node_ctr() { ctr --address "$state/containerd.sock" --namespace k8s.io "$@"; }
until node_ctr version >/dev/null 2>&1; do
  kill -0 "$pid" || die "containerd ended: $(tail -n 3 "$state/log")"
  sleep 0.1
done
import() { python3 "$root/tests/images/archive.py" "$images/layout" "$@" | node_ctr images import -; }
timed "importing $# images (3 minutes)" import "$@"
kill "$pid"
wait "$pid" || true

# The layout and the content store hold the same bytes: once on the disk is enough.
for blob in "$new/$content"/*; do ln -f "$blob" "$images/layout/blobs/sha256/${blob##*/}"; done
mv "$new" "$folder"
forget_others "$@"
ln -sfn "$folder" "$images/node" # what up.sh takes unless it is told otherwise
echo "$folder"
