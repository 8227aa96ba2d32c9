# Sourced after lib.sh, in /tmp/repo: what lanes are made of. A lane with a GPU of two sets CUDA_VISIBLE_DEVICES first.
quality=benchmarks/quality
texts=/tmp/smol/texts.json
own=/tmp/own.pt

# gputests FILE…: GPU tests, in three processes.
gputests() {
  until_there built cusparselt smol compiler
  run gputests 240 -m pytest -q --tb=short -W ignore -p no:cacheprovider -n 3 "$@"
}
# text SECONDS: the model writes $own, for so long after two minutes of compiling.
text() {
  until_there built cusparselt smol compiler
  run text $(($1 + 240)) $quality/recover.py write /tmp/smol $own --seconds "$1"
  there own
}
# one_shot SEED RECONSTRUCT METHOD…: quality of methods, calibrated on $own.
one_shot() {
  until_there built cusparselt smol own
  local seed=$1 reconstruct=$2
  shift 2
  run "one_shot$seed" 600 $quality/patterns.py /tmp/smol --texts $texts --device cuda --own $own --tokens 65536 --windows 16 \
    --methods "$@" --reconstruct "$reconstruct" --batch 4 --patterns 2:4 --seeds "$seed" --results "/tmp/o/one_shot$seed"
}
# recovery NAME SECONDS PATTERN OPTIONS…: one recovery on $own.
recovery() {
  until_there built cusparselt smol own
  local name=$1 seconds=$2 pattern=$3
  shift 3
  run "$name" $((seconds + 160)) $quality/recover.py run /tmp/smol $texts --own $own --patterns "$pattern" --methods sparsegpt \
    --seconds "$seconds" --deadline $((seconds + 120)) --batch 16 --compile-layers --lr 6e-4 --results "/tmp/o/$name" "$@"
}
# activations NAME LR RATE…: thresholds at these rates, and recovered.
activations() {
  until_there built cusparselt smol own
  local name=$1 lr=$2
  shift 2
  run "$name" 420 $quality/activations.py /tmp/smol $texts --own $own --rates "$@" --recover "$@" --lr "$lr" --seconds 200 \
    --deadline 400 --batch 16 --prompts 100 --results "/tmp/o/$name"
}
# server, engines: vLLM's, alone on their GPU.
server() {
  until_there built cusparselt vllm
  PYTHONPATH=/tmp/vllm:/tmp/site run server 330 benchmarks/bench_serve.py --cache 16 --seconds 260 --limit 190 \
    --logs /tmp/o/logs_server --results /tmp/o/server "$@"
}
engines() {
  until_there built cusparselt vllm
  PYTHONPATH=/tmp/vllm:/tmp/site run engines 260 benchmarks/bench_vllm.py --seconds 230 --limit 190 --results /tmp/o/engines \
    --logs /tmp/o/logs_engines "$@"
}
# model NAME PART BITS OPTIONS…: a part of bench_model.py, alone on its GPU.
model() {
  until_there built cusparselt compiler
  local name=$1 part=$2 bits=$3
  shift 3
  run "$name" 125 benchmarks/bench_model.py --parts "$part" --bits "$bits" --limit 120 --seconds 0.4 --results "/tmp/o/$name" "$@"
}
