#!/usr/bin/env bash
# Sets up what is missing, builds with warnings as errors, and runs every test. Arguments go to ctest.
#
#   ./test.sh               all tests
#   ./test.sh -R pipeline   those whose name matches
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
install_packages build test
fetch_wheels build test
fetch_sdists build
sh "$NANOFLOW_ROOT/tools/fetch_test_inputs.sh" "$NANOFLOW_DEPS"
choose_cuda
build ci
NANOFLOW_SMOLLM2_GGUF=$(default_model)
export NANOFLOW_SMOLLM2_GGUF
export NANOFLOW_VOCAB_DIR="$NANOFLOW_DEPS/vocab" NANOFLOW_TEMPLATE_DIR="$NANOFLOW_DEPS/templates"
exec ctest --test-dir "$NANOFLOW_ROOT/build/ci" --output-on-failure -j "$(nproc)" "$@"
