#!/usr/bin/env bash
# pack.sh FOLDER: SmolLM2's folder of transformers in two parts, its texts, and small wheels, for the calls of README.md.
set -euo pipefail
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."
rm -rf .part1 .part2
mkdir -p .part1 .part2 .whl
python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
  -d .whl gguf==0.19.0 blake3 platformdirs pytest-xdist execnet \
  model-hosting-container-standards prometheus-fastapi-instrumentator jmespath supervisor # vLLM's server
[ -e .texts.json ] || .venv/bin/python benchmarks/quality/recover.py prepare .texts.json
gguf=$(find "${GGUF:-$folder/..}" -name '*.gguf' -size +1M | head -1)
split -n 2 -d "$gguf" .part1/gguf.
mv .part1/gguf.01 .part2/
cp .texts.json .part1/texts.json
git rev-parse HEAD >.whl/commit # no .git travels
for file in config.json generation_config.json tokenizer.json tokenizer_config.json chat_template.jinja; do
  [ ! -e "$folder/$file" ] || cp "$folder/$file" .part1/
done
du -sh .part1 .part2 .whl
