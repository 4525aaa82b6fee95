#!/usr/bin/env bash
# Ties something to the life of whoever holds this program's stdin open; when it closes, for whatever reason, even a
# SIGKILL of the holder, what was tied is stopped.
#   tied.sh run COMMAND...     runs COMMAND, and ends it with SIGTERM when stdin closes
#   tied.sh then COMMAND...    waits until stdin closes, and runs COMMAND then
set -euo pipefail
how=${1:?run or then}
shift
closed() { while read -r; do :; done; }

case $how in
  then)
    closed
    exec "$@" ;;
  run)
    exec 3<&0
    "$@" <&- 3<&- &
    pid=$!
    (closed <&3; kill "$pid" 2>/dev/null) &
    watcher=$!
    code=0
    wait "$pid" || code=$?
    kill "$watcher" 2>/dev/null || true
    exit "$code" ;;
  *) echo "tied.sh: knows run and then, not: $how" >&2; exit 2 ;;
esac
