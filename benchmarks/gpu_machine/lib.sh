# Sourced by the scripts beside it: paths of a GPU machine, and what lanes are written with.
export PYTHONUNBUFFERED=1 PYTHONWARNINGS=ignore PYTHONPATH=/tmp/site HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export SPARSEFLOW_CUSPARSELT=/tmp/cusparselt/libcusparseLt.so.0
export VLLM_USE_FLASHINFER_SAMPLER=0 VLLM_NO_USAGE_STATS=1
export SPARSEFLOW_BENCH_TURNS=/tmp/turns # lanes compile side by side, and take turns with the GPU
SPARSEFLOW_COMMIT=$(cat /tmp/commit 2>/dev/null || true)
export SPARSEFLOW_COMMIT
mkdir -p /tmp/o /tmp/there /tmp/site

# Seconds since the machine was begun.
now() { echo $(($(date +%s) - $(cat /tmp/begun))); }
# Wait for what `there` has said: built, compiler, smol, vllm, or a lane's own word.
until_there() { for word in "$@"; do while [ ! -e "/tmp/there/$word" ]; do sleep 1; done; done; }
there() { touch "/tmp/there/$1"; }
# run NAME LIMIT SCRIPT OPTIONS…: a Python script for so many seconds at most.
run() {
  local name=$1 limit=$2 from
  shift 2
  from=$(now)
  timeout -k 5 "$limit" python3 "$@" >"/tmp/o/$name.txt" 2>&1
  echo "$name: exit status $?, from $from s to $(now) s" >>/tmp/o/log
}
