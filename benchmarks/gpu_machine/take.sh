#!/usr/bin/env bash
# take.sh FOLDER: keep what a call has carried, and unpack it; long work goes on in a session of its own.
set -euo pipefail
[ -e /tmp/begun ] || { echo "begin.sh has not run"; exit 1; }
. benchmarks/gpu_machine/lib.sh
case $1 in
  .part1 | .part2)
    mkdir -p /tmp/smol
    cp "$1"/* /tmp/smol/
    if [ -e /tmp/smol/gguf.00 ] && [ -e /tmp/smol/gguf.01 ]; then
      setsid bash -c '
        . /tmp/repo/benchmarks/gpu_machine/lib.sh
        cd /tmp/smol && cat gguf.00 gguf.01 >smol.gguf && rm gguf.0?
        python3 /tmp/repo/benchmarks/gpu_machine/weights.py /tmp/smol smol.gguf >/tmp/o/smol.txt 2>&1
        echo "smol: exit status $?, to $(now) s" >>/tmp/o/log
        there smol' >/dev/null 2>&1 &
    fi
    ;;
  .gpu/cusparselt)
    tar xJf .gpu/cusparselt/cusparselt.tar.xz -C /tmp
    there cusparselt
    ;;
  .gpu/compiler)
    tar xJf .gpu/compiler/torch_mlir.tar.xz -C /tmp/site
    there compiler
    ;;
  .gpu-vllm | .gpu-vllm/core | .gpu-vllm/deps)
    mkdir -p /tmp/.gpu-vllm
    for half in core deps; do [ ! -e ".gpu-vllm/$half" ] || cp -r ".gpu-vllm/$half" /tmp/.gpu-vllm/; done
    if [ -e /tmp/.gpu-vllm/core ] && [ -e /tmp/.gpu-vllm/deps ]; then
      setsid bash -c '
        . /tmp/repo/benchmarks/gpu_machine/lib.sh
        mkdir -p /tmp/vllm && tar xJf /tmp/.gpu-vllm/core/vllm.tar.xz -C /tmp/vllm
        tar xJf /tmp/.gpu-vllm/deps/deps.tar.xz -C /tmp && bash /tmp/vllm-deps/unpack.sh /tmp/vllm >/tmp/o/vllm.txt 2>&1
        echo "vllm: exit status $?, to $(now) s" >>/tmp/o/log
        there vllm' >/dev/null 2>&1 &
    fi
    ;;
  *) echo "take.sh knows no $1"; exit 1 ;;
esac
sleep 1
ls /tmp/there
