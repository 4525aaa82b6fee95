# shellcheck shell=bash
# What the scripts of tests/ share: the cache folder, words for people, keys of content, one maker at a time.
# It makes nothing itself; it is sourced by scripts that run under `set -euo pipefail`.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/loraline

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

die() {
  say "$@"
  exit 1
}

key_of() { # key_of FILE...: twelve hex digits that change when the content or the number of these files does
  sha256sum -- "$@" | cut -d' ' -f1 | sha256sum | cut -c1-12
}

tree_key() { # tree_key PATH...: the same for files and folders of the repository: their names, content and executable bits
  (
    cd "$root"
    find "$@" -type f ! -path '*/__pycache__/*' -print0 | LC_ALL=C sort -z | while read -r -d '' file; do
      if [ -x "$file" ]; then echo "x $file"; else echo "- $file"; fi
      sha256sum <"$file"
    done
  ) | sha256sum | cut -c1-12
}

one_at_a_time() { # one_at_a_time NAME: until this script ends, others that ask for NAME wait
  mkdir -p "$cache/locks"
  exec {lock_fd}>"$cache/locks/$1"
  flock -n "$lock_fd" || { say "waits for another one that makes $1"; flock "$lock_fd"; }
}

timed() { # timed WHAT COMMAND...: runs it and says how long it takes; its output goes to a log that is shown when it fails
  local what=$1 log begin=$SECONDS pulse
  shift
  mkdir -p "$cache/logs"
  log=$(mktemp "$cache/logs/$(date +%s).XXXXXX")
  say "$what ..."
  pulse "$what" >&2 &
  pulse=$!
  if "$@" >"$log" 2>&1 </dev/null; then
    end_pulse "$pulse"
    say "$what: $((SECONDS - begin)) s"
    rm -f "$log"
  else
    end_pulse "$pulse"
    tail -n 30 "$log" >&2
    die "$what ended with an error after $((SECONDS - begin)) s; the whole log is $log"
  fi
}

pulse() { # pulse WHAT: a sign of life every minute, while this script lives; read waits without a process of its own
  local never begin=$SECONDS next=60
  exec {never}<> <(:)
  while kill -0 "$$" 2>/dev/null; do
    read -rt 2 -u "$never" _ || true
    [ $((SECONDS - begin)) -lt "$next" ] || { say "$1: $next s so far" && next=$((next + 60)); }
  done
}

end_pulse() {
  kill "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}

need_go() { # need_go WHAT: WHAT is to be built from Go modules
  local version
  version=$(GOTOOLCHAIN=local go env GOVERSION 2>/dev/null) || version="no Go"
  [[ $version =~ ^go1\.([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -ge 26 ] ||
    die "$1 is neither in the cache nor on a download site in reach; building it takes Go 1.26 or newer, and this machine has $version: install it from https://go.dev/dl"
}
