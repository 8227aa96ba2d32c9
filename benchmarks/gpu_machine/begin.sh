#!/usr/bin/env bash
# Install wheels and copy the checkout to /tmp/repo. Without a wheel of our own, build there, in a session of its own.
set -euo pipefail
. benchmarks/gpu_machine/lib.sh
date +%s >/tmp/begun
cp .whl/commit /tmp/
rm -rf /tmp/repo
cp -r . /tmp/repo
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
if compgen -G '.whl/sparseflow-*.whl' >/dev/null; then
  there built
else
  setsid bash -c '
    cd /tmp/repo && . benchmarks/gpu_machine/lib.sh
    python3 -m pip install -q --no-index --no-build-isolation --no-deps . >/tmp/o/build.txt 2>&1
    echo "build: exit status $?, to $(now) s" >>/tmp/o/log
    there built' >/dev/null 2>&1 &
fi
sleep 1
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
