#!/usr/bin/env bash
# Builds the images that the built-in cluster runs and prints one line NAME=VALUE for each:
#   build.sh [operator] [trainer] [s3] [server] [node-images]       default: all
# operator, trainer, s3 and server are names of images; node-images is a folder for up.sh's LORALINE_NODE_IMAGES, in which
# all that is heavy is imported already; load.sh brings a running cluster the rest. What is there is not built again.
# Needs root (tests/tools/setup.sh system). push.sh is for other clusters.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../tools/lib.sh"
. "$root/tests/images/lib.sh"
[ $# -gt 0 ] || set -- operator trainer s3 server node-images

[ "${LORALINE_ENGINE:-buildah}" = docker ] || "$root/tests/tools/setup.sh" system
one_at_a_time images
name_images
mount_index

build() { # build WHAT: the image of that name, and first what it stands on
  local name=${!1}
  ! has_image "$name" || return 0
  case $1 in
    base)
      [ -z "${LORALINE_BASE:-}" ] || return 0 # pulled by the build
      timed "building the base image (a minute)" "$here/base.sh" "$base" ;;
    operator_dependencies)
      build base
      timed "building the operator's dependencies (a minute)" build_image "$name" "$root/operator/Dockerfile" "$root" --target dependencies ;;
    torch)
      build base
      timed "building the layer of torch (4.8 GB: 5 minutes)" build_image "$name" "$root/trainer_image/Dockerfile" "$root" --target torch ;;
    trainer_dependencies)
      build torch
      timed "building the trainer's dependencies (a minute)" build_image "$name" "$root/trainer_image/Dockerfile" "$root" \
        --target dependencies --build-arg TORCH="$torch" ;;
    server)
      build torch
      timed "building vLLM for CPUs (2 minutes)" build_image "$name" "$root/tests/serving/Dockerfile" "$root" --build-arg TORCH="$torch" ;;
    operator)
      build operator_dependencies
      timed "building the operator's image" build_image "$name" "$root/operator/Dockerfile" "$root" --build-arg DEPENDENCIES="$operator_dependencies" ;;
    trainer)
      build trainer_dependencies
      timed "building the trainer's image" build_image "$name" "$root/trainer_image/Dockerfile" "$root" --build-arg DEPENDENCIES="$trainer_dependencies" ;;
    s3)
      timed "building the image of S3" build_image "$name" "$here/s3/Dockerfile" "$("$root/tests/tools/setup.sh" tools | tail -n 1)" ;;
  esac
}

for what in "$@"; do
  case $what in
    operator | trainer | s3 | server)
      build "$what"
      echo "$what=${!what}" ;;
    node-images)
      for part in s3 operator_dependencies trainer_dependencies server; do build "$part"; done
      echo "node-images=$(KEEP="$base $torch $operator $trainer" "$here/node_images.sh" "$s3" "$operator_dependencies" "$trainer_dependencies" "$server")" ;;
    *) die "knows operator, trainer, s3, server and node-images, not: $what" ;;
  esac
done
