#!/usr/bin/env bash
# Sets up what is missing, then serves a data set of prompts: one line per request as it finishes, then a summary.
#
#   ./serve.sh                                             the default model, the prompts of data/prompts.jsonl
#   ./serve.sh --model DIR_OR_ID --dataset FILE --max-tokens N
#   ./serve.sh --help                                      all options (those of "nanoflow run-batch")
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup_release
exec "$NANOFLOW_ROOT/build/release/nanoflow" run-batch --print --model "$(default_model)" \
  --dataset "$NANOFLOW_ROOT/data/prompts.jsonl" --max-tokens 64 --temperature 0 "$@"
