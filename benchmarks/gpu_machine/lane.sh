#!/usr/bin/env bash
# lane.sh NAME COMMANDS [NAME COMMANDS …]: begin lanes, each in a session of its own in /tmp/repo.
set -euo pipefail
[ -e /tmp/begun ] || { echo "begin.sh has not run"; exit 1; }
while [ $# -gt 1 ]; do
  printf '. benchmarks/gpu_machine/lib.sh\n%s\nthere %s\n' "$2" "$1" >"/tmp/lane-$1.sh"
  (cd /tmp/repo && setsid bash "/tmp/lane-$1.sh" >"/tmp/o/lane-$1.txt" 2>&1 &)
  shift 2
done
sleep 1
pgrep -af '/tmp/lane-[a-z0-9]*.sh'
