#!/usr/bin/env bash
# Unpack cuSPARSELt and wheels, copy the checkout to /tmp/repo, and build there in a session of its own.
set -euo pipefail
. benchmarks/gpu_machine/lib.sh
date +%s >/tmp/begun
cp .whl/commit /tmp/
rm -rf /tmp/repo
cp -r . /tmp/repo
python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target /tmp/site .whl/*.whl
setsid bash -c '
  cd /tmp/repo && . benchmarks/gpu_machine/lib.sh
  tar xJf .gpu/cusparselt/cusparselt.tar.xz -C /tmp
  python3 -m pip install -q --no-index --no-build-isolation --no-deps . >/tmp/o/build.txt 2>&1
  echo "build: exit status $?, to $(now) s" >>/tmp/o/log
  there built' >/dev/null 2>&1 &
sleep 1
nvidia-smi --query-gpu=name,memory.total --format=csv,noheader
