# shellcheck shell=bash
# Processes and addresses of one cluster, whose folder is $dir: start and find programs by recorded pid.
# Addresses, all within 10.244.0.0/14: pods 10.244, the node 10.245, kwok's pods 10.246, Services 10.247.
# What a cluster leaves on the machine outside of its folder is machine.sh's matter.

node_ip=10.245.0.2
service_ip=10.247.0.1
enter=() # how to enter the node's namespaces; empty without a node
part=system # of the node's cgroup, in which programs start: the box and the control plane, or `node`, what a node runs
cgroup=loraline-$(printf %s "$dir" | sha256sum | cut -c1-8)

fail() {
  echo "${0##*/}: $*" >&2
  exit 1
}

started_at() { # started_at PID: tells a pid's owner from a later one; nothing of one that has ended and is not yet reaped
  sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '$1 != "Z" {print $20}'
}

start() { # start NAME COMMAND...: in the background; its pid goes to pids/, its output to logs/NAME.log
  local name=$1 n
  shift
  n=$(find "$dir/pids" -type f | wc -l)
  (
    umask 022 # up.sh's 077 is for keys; under containerd it would close an image's root to other users
    close_inherited
    [ ${#enter[@]} -eq 0 ] || echo "$BASHPID" >"$(cgroup_folder)/$part/cgroup.procs"
    exec setsid "${enter[@]}" "$@" </dev/null >>"$dir/logs/$name.log" 2>&1
  ) &
  echo "$! $(started_at $!)" >"$dir/pids/$(printf %02d "$n")-$name"
}

close_inherited() { # all but stdin, stdout and stderr: a cluster that stays up would hold its caller's locks and pipes
  local fd
  for fd in /proc/"$BASHPID"/fd/*; do
    fd=${fd##*/}
    [ "$fd" -le 2 ] || eval "exec $fd>&-"
  done
}

alive() { # alive FILE: whether the program of that pid file still runs
  local pid at
  read -r pid at <"$1" && [ -n "$at" ] && [ "$(started_at "$pid")" = "$at" ]
}

running() { # running [DIR]: the programs of the cluster that still run
  local file
  for file in "${1:-$dir}"/pids/*; do
    if [ -f "$file" ] && alive "$file"; then echo "${file##*/}"; fi
  done
}

cgroup_folder() { # where the processes of the node's cgroup are listed: cgroup v2, or v1's hierarchy of pids
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then echo "/sys/fs/cgroup/$cgroup"; else echo "/sys/fs/cgroup/pids/$cgroup"; fi
}

end_cgroup() { # end_cgroup [PART]: kills the processes of the node's cgroup or of a part of it, and removes it
  local path=${1:+/$1} pids
  for _ in $(seq 50); do
    pids=$(find "$(cgroup_folder)$path" -name cgroup.procs -exec cat {} + 2>/dev/null || true)
    [ -n "$pids" ] || break
    # shellcheck disable=SC2086 # a list
    kill -9 $pids 2>/dev/null || true
    sleep 0.1
  done
  for _ in $(seq 20); do
    find /sys/fs/cgroup/"$cgroup$path" /sys/fs/cgroup/*/"$cgroup$path" -depth -type d -exec rmdir {} + 2>/dev/null || true
    [ -d "$(cgroup_folder)$path" ] || return 0
    sleep 0.1
  done
  fail "the cgroup $(cgroup_folder)$path still holds processes: $(find "$(cgroup_folder)$path" -name cgroup.procs -exec cat {} + | tr '\n' ' ')"
}

get() { # get PATH: from the API server, as admin
  curl -sf -m 5 --cacert "$dir/pki/ca.crt" --cert "$dir/pki/admin.crt" --key "$dir/pki/admin.key" "https://127.0.0.1:$port$1"
}

await() { # await WHAT COMMAND...: until it succeeds, at most a minute, or until one of the cluster's programs has ended
  local what=$1 i file
  shift
  for i in $(seq 600); do
    ! "$@" >/dev/null 2>&1 || return 0
    if [ $((i % 10)) = 0 ]; then
      for file in "$dir"/pids/*; do
        alive "$file" || fail "${file##*/} ended; the last of its log, $dir/logs/${file##*/[0-9][0-9]-}.log: $(tail -n 3 "$dir/logs/${file##*/[0-9][0-9]-}.log")"
      done
    fi
    sleep 0.1
  done
  fail "waited a minute for $what; the logs are in $dir/logs"
}

free_ports() { # free_ports N [FIRST]: N free ports of 127.0.0.1, the first one as given
  python3 -c '
import random, socket, sys
count, first = int(sys.argv[1]), sys.argv[2]
sockets = [socket.socket() for _ in range(count)]
ports = random.sample(range(10_000, 30_000), 1000)  # none that Linux gives to a connection meanwhile
for i, s in enumerate(sockets):
    while True:
        try:
            s.bind(("127.0.0.1", int(first) if first and i == 0 else ports.pop()))
            break
        except OSError:
            if first and i == 0:
                raise
print(*(s.getsockname()[1] for s in sockets))' "$1" "${2:-}"
}
