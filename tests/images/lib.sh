# shellcheck shell=bash
# Names of the images, and the program that builds them: buildah on a storage in the project's cache, or docker where
# LORALINE_ENGINE says so. Sourced after tests/tools/lib.sh; it builds nothing itself.

images=$cache/images
here=$root/tests/images

buildah() { # chroot isolation: it needs neither a running service nor namespaces of its own
  BUILDAH_ISOLATION=chroot command buildah --root "$images/storage" --runroot "$images/run" --storage-driver overlay "$@"
}

has_image() {
  if [ "${LORALINE_ENGINE:-buildah}" = docker ]; then docker image inspect "$1" >/dev/null 2>&1; else buildah inspect --type image "$1" >/dev/null 2>&1; fi
}

build_image() { # build_image NAME DOCKERFILE CONTEXT ARGUMENT...
  local name=$1 file=$2 context=$3
  shift 3
  if [ "${LORALINE_ENGINE:-buildah}" = docker ]; then
    # BuildKit for COPY --chmod; the default builder, as only that one sees the images that stages are built on
    DOCKER_BUILDKIT=1 BUILDX_BUILDER=default SOURCE_DATE_EPOCH=0 docker build --tag "$name" --file "$file" --build-arg BASE="$base" "$@" "$context"
  else
    buildah bud --quiet --timestamp 0 --tag "$name" --file "$file" --build-arg BASE="$base" "${mounts[@]}" "$@" "$context"
  fi
}

mount_index() { # the way to the package index is this machine's own matter: mounted while it builds, never copied
  local certificates=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
  mkdir -p "$images"
  {
    echo "[global]"
    echo "timeout = 180"
    [ -z "${PIP_INDEX_URL:-}" ] || echo "index-url = $PIP_INDEX_URL"
  } >"$images/pip.conf"
  mounts=(--volume "$certificates:/etc/ssl/certs/ca-certificates.crt:ro" --volume "$images/pip.conf:/etc/pip.conf:ro")
}

lay_out() { # lay_out NAME: the image's layers as they are, uncompressed, in the layout; those that are there are not read again
  skopeo copy --quiet --dest-oci-accept-uncompressed-layers \
    "containers-storage:[overlay@$images/storage+$images/run]$1" "oci:$images/layout:$1"
}

stages() { # stages DOCKERFILE NAME: its lines up to the end of the stage of that name
  awk -v last="$2" '/^FROM/ && found {exit} {print} /^FROM/ && $NF == last {found = 1}' "$1"
}

# A name ends in a key of all that goes in: of a layer of dependencies, its stages, its lock files and what it stands on;
# of an image of ours, the code too. The same inputs have the same name, so nothing is ever built twice or named `latest`.
name_images() { # sets the names of all images; LORALINE_BASE is the image to stand on, by default Debian by base.sh
  local operator_key torch_key trainer_key
  base=${LORALINE_BASE:-localhost/loraline-base:$(key_of "$here/base.sh")}
  operator_key=$(key_of <(echo "$base") <(stages "$root/operator/Dockerfile" dependencies) "$root/operator/requirements.txt")
  torch_key=$(key_of <(echo "$base") <(stages "$root/trainer_image/Dockerfile" torch) "$root/trainer_image/requirements-torch.txt")
  trainer_key=$(key_of <(echo "$torch_key") <(stages "$root/trainer_image/Dockerfile" dependencies) "$root/trainer_image/requirements.txt")
  operator_dependencies=localhost/loraline-operator-dependencies:$operator_key
  torch=localhost/loraline-torch:$torch_key
  trainer_dependencies=localhost/loraline-trainer-dependencies:$trainer_key
  server=localhost/loraline-vllm-cpu:$(key_of <(echo "$torch_key") "$root/tests/serving/Dockerfile" "$root/tests/serving/requirements.txt")
  operator=localhost/loraline-operator:$(tree_key operator/Dockerfile operator/requirements.txt crds/loraline_api operator/loraline_operator operator/loraline_switchboard)-${operator_key:0:4}
  trainer=localhost/loraline-trainer:$(tree_key trainer_image/Dockerfile crds/loraline_api trainer_image/loraline_trainer)-${trainer_key:0:4}
  s3=localhost/loraline-s3:$(key_of "$here/s3/Dockerfile" "$root/tests/tools/setup.sh")
}
