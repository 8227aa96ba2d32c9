#!/usr/bin/env bash
# poll.sh SECONDS [WORD]: wait so long, or until there is WORD; print the log, and pack /tmp/o into $OUT.
set -euo pipefail
[ -e /tmp/begun ] || { echo "begin.sh has not run"; exit 1; }
. benchmarks/gpu_machine/lib.sh
for ((second = 0; second < $1; second++)); do
  [ -z "${2:-}" ] || [ ! -e "/tmp/there/$2" ] || break
  sleep 1
done
echo "$(now) s"
cat /tmp/o/log
for file in /tmp/o/*.txt; do echo "== $file"; tail -n 2 "$file" | tr '\r' '\n' | tail -n 2 | cut -c1-300; done
tar czf "$OUT/o.tgz" -C /tmp o
