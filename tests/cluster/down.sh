#!/usr/bin/env bash
# Stops the cluster of DIR by its recorded pids: down.sh DIR. Its data stays, for another up.sh or for rm -r.
# A node's pods are killed without grace, as in a power cut: delete them first where that matters.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=$(cd "${1:?a folder}" && pwd)
. "$here/lib.sh"
. "$here/machine.sh"

stop() { # stop SIGNAL PATTERN...: these programs; SIGKILL to those that are left after ten seconds
  local signal=$1 pattern file pid files=()
  shift
  # shellcheck disable=SC2231 # the patterns are to be expanded
  for pattern in "$@"; do
    for file in "$dir"/pids/*-$pattern; do
      if [ -f "$file" ] && alive "$file"; then files+=("$file"); fi
    done
  done
  for file in "${files[@]}"; do
    read -r pid _ <"$file"
    kill "-$signal" "$pid" 2>/dev/null || true
  done
  for file in "${files[@]}"; do
    for _ in $(seq 100); do
      alive "$file" || continue 2
      sleep 0.1
    done
    read -r pid _ <"$file"
    kill -9 "$pid" 2>/dev/null || true
  done
}

stop KILL 'kube*' kwok coredns registry 'door*' # they keep nothing; their own way to end takes five seconds
stop TERM etcd
[ ! -d "$(cgroup_folder)" ] || end_cgroup # of a node: its containers, and all that they left
stop KILL box
rm -f "$dir"/pids/*
with_machine release_machine
