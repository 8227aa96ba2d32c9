#!/usr/bin/env bash
# Build the native library with a sanitizer, without CUDA, and run the tests that reach it.
#
# Usage: sanitize.sh PYTHON [address,undefined | thread]
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "$1") sanitizer=${2:-address,undefined}
build=build/sanitize-${sanitizer%%,*}
flags="-fsanitize=$sanitizer -fno-omit-frame-pointer -g1"
[[ $sanitizer != *undefined* ]] || flags+=" -fno-sanitize-recover=undefined"

cmake -S . -B "$build" $(command -v ninja >/dev/null && echo "-G Ninja") -DCMAKE_BUILD_TYPE=RelWithDebInfo -DSPARSEFLOW_CUDA=OFF \
  -DPython_EXECUTABLE="$python" -DCMAKE_CXX_FLAGS="$flags" >/dev/null
cmake --build "$build" --parallel "${JOBS:-$(nproc)}"

# Python has no sanitizer, so its runtime must be loaded before; and libstdc++, whose exceptions it watches.
preload=
[ "$sanitizer" = thread ] && runtimes="tsan stdc++" || runtimes="asan ubsan stdc++"
for name in $runtimes; do preload+=" $(g++ -print-file-name=lib$name.so)"; done
export SPARSEFLOW_LIBRARY=$PWD/$build/runtime/csrc/libsparseflow_runtime.so CUDA_VISIBLE_DEVICES=

# What Python and torch keep until the process ends is no leak of ours, and they are all that allocates in most tests.
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=halt_on_error=0:exitcode=66

if [ "$sanitizer" = thread ]; then
  # One thread of OpenMP, whose synchronisation is invisible to the sanitizer: each call works in the thread that makes
  # it. And addresses that don't vary: its shadow memory has a place of its own.
  OMP_NUM_THREADS=1 LD_PRELOAD=$preload setarch -R "$python" test/unit/kernels/threads.py
else
  LD_PRELOAD=$preload "$python" -m pytest -q -s -p no:cacheprovider \
    test/unit/kernels test/unit/contextual/kernels test/unit/runtime
  CXXFLAGS="$flags" "$python" -m pytest -q -p no:cacheprovider test/unit/test_emulated.py
fi
