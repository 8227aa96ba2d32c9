#!/usr/bin/env bash
# Builds the wheel with the CUDA toolkit that is there and without one, installs each in an environment that
# has torch and no checkout, and uses it there: tools/try_wheel.sh [PYTHON], of an environment with `build`.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
packages=$("$python" -c 'import torch, pathlib; print(pathlib.Path(torch.__file__).parents[1])')

try() { # NAME, then options of the build
    local name=$1 place=$work/$1
    shift
    "$python" -m build --wheel --no-isolation --outdir "$place/dist" -C build-dir="build/wheel-$name" "$@" . > "$place.log" 2>&1 ||
        { tail -30 "$place.log"; exit 1; }
    "$python" -m venv --without-pip "$place/env"
    "$python" -m pip --python "$place/env/bin/python" install -q --no-deps "$place"/dist/*.whl
    # torch and the other dependencies, but no editable install: .pth files there are not read.
    echo "$packages" > "$("$place/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/packages.pth"
    echo "== $name: $(basename "$place"/dist/*.whl), $(du -h "$place"/dist/*.whl | cut -f1)"
    (cd "$place" && SPARSEFLOW_CACHE_DIR=$place/cache try_it "$place")
}

try_it() {
    "$1/env/bin/sparseflow" info
    "$1/env/bin/sparseflow" validate --shape 16x64x64 --device cpu > /dev/null
    "$1/env/bin/python" - "$1" << 'EOF'
import sys
import torch
import sparseflow as sf

assert sf.__file__.startswith(sys.argv[1]), sf.__file__
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64)).eval()
x = torch.randn(3, 64)
compiled = sf.compile(model, (x,), prune="magnitude", policy="sparse")
assert [layer.decision for layer in compiled.report.layers] == ["sparse", "sparse"]
compiled.report.to_html("report.html")
compiled.save("artifact")
with torch.no_grad():
    torch.testing.assert_close(sf.load("artifact")(x), compiled(x))
print("compiled, saved, loaded, reported")
EOF
}

mkdir -p "$work/with" "$work/without"
try with
try without -C cmake.define.CMAKE_CUDA_COMPILER=NOTFOUND
