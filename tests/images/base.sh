#!/usr/bin/env bash
# Makes the base image out of Debian's packages, for machines that reach no container registry: Debian 12 with python3.
#   base.sh NAME      needs root, debootstrap and buildah; a minute
# It is not needed where a registry is in reach: the Dockerfiles' own default for BASE does as well.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
. "$root/tests/images/lib.sh"
name=${1:?a name for the image}

tree=$(mktemp -d)
trap 'rm -rf --one-file-system "$tree"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$tree"
for mount in proc sys dev; do
  if mountpoint -q "$tree/$mount"; then umount "$tree/$mount"; fi
done
rm -rf "${tree:?}"/var/{cache/apt,lib/apt/lists,log}/* "${tree:?}"/usr/share/{doc,man,locale}/*
rm -f "$tree"/etc/{resolv.conf,hostname}
find "$tree" -depth -name __pycache__ -exec rm -r {} +
chmod 755 "$tree" # mktemp's 700 would close the root to every other user

container=$(buildah from scratch)
trap 'rm -rf --one-file-system "$tree"; buildah rm "$container" >/dev/null' EXIT
buildah copy --quiet "$container" "$tree" /
buildah config --env PATH=/usr/local/bin:/usr/bin:/bin --env LANG=C.UTF-8 "$container"
buildah commit --quiet --timestamp 0 "$container" "$name"
