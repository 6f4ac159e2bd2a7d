#!/usr/bin/env bash
# Everything that only a GPU can show, in one run: tests of the CUDA backend, every op against the CPU's reference,
# whole models, and the benches. Ends with one table; exits with 1 when a part failed.
#
#   tools/gpu_check.sh [BUILD_DIR]        a build with -DNANOFLOW_CUDA=ON -DNANOFLOW_OP_BENCH=ON (default build/cuda)
#   PARTS="ops models" tools/gpu_check.sh  only these parts: backend ops models engine sanitizer benches throughput
#   NANOFLOW_GPU_MODEL=FILE                SmolLM2-135M-Instruct's GGUF: also against transformers, and its text against
#                                          the CPU's
#   OUT=DIR                                where the logs go (default BUILD_DIR/gpu_check)
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${1:-$root/build/cuda}
out=${OUT:-$build/gpu_check}
parts=${PARTS:-backend ops models engine sanitizer benches throughput}
mkdir -p "$out"
table=()
failed=0

# part NAME SECONDS COMMAND...: one line of the table; the last line of the output is its summary.
part() {
  local name=$1 limit=$2 start=$SECONDS status summary
  shift 2
  [ -x "$1" ] || { table+=("$(printf '%-22s %-8s' "$name" "not built")"); return; }
  timeout "$limit" "$@" > "$out/$name.log" 2>&1
  status=$?
  summary=$(grep -E '^\[  (PASSED|FAILED)' "$out/$name.log" | head -n 1)
  [ -n "$summary" ] || summary=$(tail -n 1 "$out/$name.log")
  if [ $status = 124 ]; then summary="still running after $limit s"; fi
  if [ $status != 0 ]; then
    failed=1
    grep -E '^\[  FAILED|Failure$|error|got ' "$out/$name.log" | head -n "${LINES_OF_FAILURES:-12}"
  fi
  table+=("$(printf '%-22s %-8s %5d s  %s' "$name" "$([ $status = 0 ] && echo ok || echo FAILED)" $((SECONDS - start)) "$summary")")
}

wants() { [[ " $parts " == *" $1 "* ]]; }

# The program's answer on the GPU must be the CPU's up to a near-tie; both are shown where they differ.
compare_devices() {
  local model=$1
  "$build/nanoflow" generate --device cpu --model "$model" --prompt "The capital of France is" --max-tokens 24 \
    --temperature 0 > "$out/cpu.txt" 2> "$out/cpu.err" || { tail -n 3 "$out/cpu.err"; return 1; }
  "$build/nanoflow" generate --device cuda --model "$model" --prompt "The capital of France is" --max-tokens 24 \
    --temperature 0 > "$out/cuda.txt" 2> "$out/cuda.err" || { tail -n 3 "$out/cuda.err"; return 1; }
  cat "$out/cuda.err"
  if cmp -s "$out/cpu.txt" "$out/cuda.txt"; then echo "text equals the CPU's"; else
    echo "text differs (a near-tie?)"
    diff "$out/cpu.txt" "$out/cuda.txt"
  fi
}

wants backend && part backend 120 "$build/backend_cuda_test"
wants ops && NANOFLOW_TEST_DEVICE=cuda part ops 600 "$build/tests/backend_ops/backend_ops_test"
wants models &&
  NANOFLOW_SMOLLM2_GGUF=${NANOFLOW_GPU_MODEL:-} NANOFLOW_TEST_DEVICE=cuda part parity 300 "$build/tests/e2e/parity/parity_test" '--gtest_filter=*OnTheGpu*'
if wants models && [ -n "${NANOFLOW_GPU_MODEL:-}" ]; then
  export -f compare_devices
  export build out
  part models 300 "$(command -v bash)" -c "compare_devices '$NANOFLOW_GPU_MODEL'"
fi
if wants engine; then
  part engine 300 "$build/tests/e2e/engine/engine_gpu_test"
  part faults 120 "$build/tests/e2e/engine/engine_gpu_faults_test"
fi
if wants sanitizer && sanitizer=$(command -v compute-sanitizer); then
  # Whole steps of tiny checkpoints. The tool itself fails on kernels of cuBLASLt in racecheck, so that sees float32.
  part memcheck 300 "$sanitizer" --error-exitcode 3 "$build/tests/e2e/engine/engine_gpu_test" '--gtest_filter=*FewTokens*'
  part racecheck 300 "$sanitizer" --error-exitcode 3 --tool racecheck "$build/tests/e2e/engine/engine_gpu_test" \
    '--gtest_filter=*FewTokensOfFloat32*'
  NANOFLOW_TEST_DEVICE=cuda part racecheck_ops 300 "$sanitizer" --error-exitcode 3 --tool racecheck \
    "$build/tests/backend_ops/backend_ops_test" '--gtest_filter=*Norm*:*Rope*:*Silu*:*Embed*:*Attention*:*Moe*'
fi
if wants benches; then
  for bench in "$build"/cuda_*_bench; do
    [ -x "$bench" ] && part "$(basename "$bench")" 400 "$bench"
    [ -f "$out/$(basename "$bench").log" ] && cat "$out/$(basename "$bench").log"
  done
fi
# throughput NAME ARGUMENTS...: 2,000 requests at once; the summary is what the compute optimum and the roofline allow.
throughput() {
  local name=$1
  shift
  part "$name" 300 "$build/nanoflow" bench throughput --model "$root/bench/models/llama-3-8b" --load-format dummy \
    --skip-tokenizer-init --max-model-len 8192 --max-num-seqs 1024 --max-num-batched-tokens 2048 --num-requests 2000 "$@"
  cat "$out/$name.log"
}
if wants throughput; then
  throughput 1024_512 --input-len 1024 --output-len 512
  throughput 512_512 --input-len 512 --output-len 512
  throughput 512_1024 --input-len 512 --output-len 1024
  for trace in "$root"/bench/traces/*-2000.csv; do
    throughput "$(basename "$trace" .csv)" --lengths "$trace" --lengths-in-order
  done
fi
printf '\n'
printf '%s\n' "${table[@]}"
exit $failed
