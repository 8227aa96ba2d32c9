# Sourced after lib.sh, in /tmp/repo: what lanes are made of. A lane with a GPU of two sets CUDA_VISIBLE_DEVICES first.
quality=benchmarks/quality
texts=/tmp/smol/texts.json
own=/tmp/own.pt

# gputests FILE…: GPU tests, in three processes.
gputests() {
  until_there built cusparselt smol compiler
  run gputests 240 -m pytest -q --tb=short -W ignore -p no:cacheprovider -n 3 "$@"
}
# text SECONDS OPTIONS…: the model writes $own, for so long after two minutes of compiling. It takes a third of the
# GPU's free memory: one writer at a time. $OUT takes files of 16 MiB, which are 8 million tokens.
text() {
  until_there built cusparselt smol compiler
  local seconds=$1
  shift
  run text $((seconds + 240)) $quality/recover.py write /tmp/smol $own --seconds "$seconds" "$@"
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
# tokens NAME MODEL OPTIONS…: whole tokens of a model. host OPTIONS…: what calls cost the host, attention: of one query.
tokens() {
  until_there built cusparselt compiler
  local name=$1 model=$2
  shift 2
  run "$name" 330 benchmarks/bench_generate.py "$model" --dtype bfloat16 --tokens 256 --repeats 2 --out "/tmp/o/$name" "$@"
}
host() {
  until_there built cusparselt compiler
  run host 200 benchmarks/bench_host_gpu.py --results /tmp/o/host "$@"
}
attention() {
  until_there built
  run attention 100 benchmarks/bench_decode_attention.py --folder /tmp/o/attention
}
