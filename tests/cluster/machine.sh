# shellcheck shell=bash
# What running clusters need of the machine outside of their folders: a route, and mount points at usual paths.
# The first cluster makes it, the last one removes exactly what was made. Needs root, and does nothing without. Expects
# lib.sh and $dir.

machine=/run/loraline # clusters/: one file for each running one, holding its folder; made: the folders that were made

# On the host the clusters' addresses lead nowhere: a stray connection fails at once and never leaves the machine.
# The protocol number marks the route as ours.
route=(unreachable 10.244.0.0/14 proto 76)
mount_points=(/run/containerd /run/netns /var/lib/containerd /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers)

with_machine() { # with_machine FUNCTION: one cluster at a time
  [ "$(id -u)" = 0 ] || return 0
  local fd
  mkdir -p "$machine/clusters"
  exec {fd}>"$machine/lock"
  flock "$fd"
  "$1"
  exec {fd}>&-
}

claim_machine() {
  local path
  printf %s "$dir" >"$machine/clusters/$cgroup"
  ! command -v ip >/dev/null || ip route replace "${route[@]}"
  for path in "${mount_points[@]}"; do
    [ -d "$path" ] || { mkdir -p "$path"; echo "$path" >>"$machine/made"; }
  done
}

release_machine() {
  local file other path
  rm -f "$machine/clusters/$cgroup"
  for file in "$machine"/clusters/*; do
    [ -f "$file" ] || continue
    other=$(cat "$file")
    [ -z "$(running "$other")" ] || return 0
    rm -f "$file" # died with the machine's power, so to say
  done
  ! command -v ip >/dev/null || ip route delete "${route[@]}" 2>/dev/null || true
  if [ -f "$machine/made" ]; then
    while read -r path; do rmdir "$path" 2>/dev/null || true; done <"$machine/made"
    rm -f "$machine/made"
  fi
}
