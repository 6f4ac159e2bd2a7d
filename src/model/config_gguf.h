// Reads a ModelConfig from a GGUF file's metadata. Internal to model/; read_model_config calls it.
#pragma once

#include <filesystem>

#include "formats/gguf.h"
#include "model/config.h"

namespace nanoflow {

/// The validated configuration. "llama" files become LlamaForCausalLM, or MixtralForCausalLM when
/// they have experts. vocab_size is that of the embedding; biases and tied embeddings follow from
/// which tensors there are. Throws FormatError, or ConfigError naming the metadata key.
ModelConfig model_config_from_gguf(const GgufFile& file);

/// The same for a path; throws IoError, too.
ModelConfig read_gguf_config(const std::filesystem::path& file);

}  // namespace nanoflow
