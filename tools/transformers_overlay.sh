#!/usr/bin/env bash
# Lay another transformers over an environment: a folder with it and what it needs, which sees all else of the other.
#
# Usage: transformers_overlay.sh ENVIRONMENT OVERLAY newest|oldest
#
# newest is the newest there is, whether the project says that it was tested or not; oldest the lower bound in
# pyproject.toml.
set -euo pipefail
environment=$(realpath "$1") overlay=$2 which=$3
here=$(cd "$(dirname "$0")/.." && pwd)
bound=$(grep -oP '^transformers = \["transformers>=\K[\d.]+' "$here/pyproject.toml")
case $which in
  newest) wanted=transformers ;;
  oldest) wanted="transformers==$bound" ;;
  *) echo "transformers_overlay.sh: newest or oldest, not '$which'" >&2; exit 2 ;;
esac

site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
rm -rf "$overlay"
"$environment/bin/python" -m venv "$overlay"
below=$(site "$environment")
"$overlay/bin/python" -m pip --disable-pip-version-check -q install "$wanted" \
  $(grep -iE '^(numpy|packaging)==' "$here/constraints.txt")
# addsitedir, not the path alone: the editable install of the project is a .pth file too.
echo "import site; site.addsitedir('$below')" > "$(site "$overlay")/below.pth"
# The project's own commands, by the overlay's interpreter.
for command in sparseflow sparseflow-opt; do
  sed "1s|.*|#!$(realpath "$overlay")/bin/python|" "$environment/bin/$command" > "$overlay/bin/$command"
  chmod +x "$overlay/bin/$command"
done
"$overlay/bin/python" -c 'import transformers; print("transformers", transformers.__version__)'
