#!/usr/bin/env bash
# Install a wheel in a new environment without a compiler and with empty caches, use it there, and say how long it
# took beyond torch's download.
#
# Usage: try_wheel.sh WHEEL [PYTHON [TORCH]]
#   PYTHON  makes the environment; python3 when left out
#   TORCH   what pip installs first, such as torch==2.11.0, or a folder with torch's packages, which is only linked
set -euo pipefail
wheel=$(realpath "$1") python=${2:-python3} torch=${3:-torch==2.13.0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pip=("$work/env/bin/python" -m pip --disable-pip-version-check -q --no-cache-dir)
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.1f", b - a }'; }

"$python" -m venv "$work/env"
site=$("$work/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
start=$(now)
if [ -d "$torch" ]; then
  # torch alone, not what stands beside it: the wheel's own dependencies are installed.
  for name in torch torchgen functorch; do ln -s "$torch/$name" "$site/"; done
  cp -r "$torch"/torch-*.dist-info "$site/"
else
  "${pip[@]}" install "$torch"
fi
echo "torch: $(since "$start") s"

# No compiler, no toolkit and none of this user's caches from here on.
mkdir -p "$work/bin" "$work/home" "$work/place"
for tool in bash cat env uname ldconfig; do
  ! found=$(command -v "$tool") || ln -s "$found" "$work/bin/"
done
cd "$work/place"
clean=(env -i HOME="$work/home" PATH="$work/env/bin:$work/bin" OMP_NUM_THREADS="${OMP_NUM_THREADS:-$(nproc)}")
for name in $(compgen -e | grep -E '^(PIP_|SSL_|REQUESTS_)' || true); do clean+=("$name=${!name}"); done
for tool in cc c++ gcc g++ clang nvcc ninja cmake; do
  ! "${clean[@]}" bash -c "command -v $tool" || { echo "$tool is on the PATH"; exit 1; }
done

start=$(now)
"${clean[@]}" "${pip[@]}" install "$wheel"
echo "install: $(since "$start") s"
first=$(now)
"${clean[@]}" python - << 'EOF'
import torch

import sparseflow as sf

weight = sf.prune_24(torch.randn(256, 512))
x = torch.randn(3, 512)
y = sf.sparse_mm(x, sf.compress_2_4(weight))
torch.testing.assert_close(y.double(), x.double() @ weight.double().T, rtol=1e-4, atol=1e-4)
print(f"first sparse output: {tuple(y.shape)}, {sf.__file__}")
EOF
echo "import and first sparse output: $(since "$first") s"
echo "wheel to first sparse output: $(since "$start") s"

start=$(now)
"${clean[@]}" "${pip[@]}" install "sparseflow[compiler] @ file://$wheel"
"${clean[@]}" python - << 'EOF'
import torch

import sparseflow as sf

model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64)).eval()
x = torch.randn(3, 64)
compiled = sf.compile(model, (x,), prune="magnitude", policy="sparse")
assert [layer.decision for layer in compiled.report.layers] == ["sparse", "sparse"]
compiled.save("artifact")
with torch.no_grad():
    torch.testing.assert_close(sf.load("artifact")(x), compiled(x))
if not torch.cuda.is_available():
    # Without a GPU, or with a torch that knows none, the CUDA kernels are refused in words.
    try:
        torch.ops.sparseflow.cusparselt_open("/nowhere/libcusparseLt.so.0")
    except Exception as error:
        assert "undefined symbol" not in str(error), error
print("compiled, saved, loaded")
EOF
"${clean[@]}" sparseflow info
"${clean[@]}" sparseflow validate --shape 16x64x64 --device cpu > /dev/null
echo "the rest: $(since "$start") s"
