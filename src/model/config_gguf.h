// Reads a ModelConfig from a GGUF file's metadata. Internal to model/; read_model_config calls it.
#pragma once

#include <filesystem>

#include "model/config.h"

namespace nanoflow {

/// Throws IoError, FormatError, or ConfigError naming the metadata key. "llama" files become
/// LlamaForCausalLM, or MixtralForCausalLM when they have experts.
ModelConfig read_gguf_config(const std::filesystem::path& file);

}  // namespace nanoflow
