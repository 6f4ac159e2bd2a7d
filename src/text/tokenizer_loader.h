// From files to a Tokenizer. The parsing of the files themselves is in formats/.
#pragma once

#include <filesystem>

#include "text/tokenizer.h"

namespace nanoflow {

class GgufFile;

/// Loads the tokeniser of a Hugging Face folder: tokenizer.json, else tokenizer.model
/// (SentencePiece BPE or tiktoken ranks), with tokenizer_config.json and special_tokens_map.json
/// for the names of special tokens and the add_bos/add_eos rules.
/// Throws IoError, FormatError, or ConfigError that names what is not supported (Unigram models,
/// unknown pre-tokenisers, ...).
[[nodiscard]] Tokenizer load_tokenizer(const std::filesystem::path& dir);

/// Builds the tokeniser from a GGUF file's tokenizer.ggml.* keys ("gpt2" and "llama" models).
/// Throws ConfigError that names an unknown tokenizer.ggml.model or tokenizer.ggml.pre.
[[nodiscard]] Tokenizer tokenizer_from_gguf(const GgufFile& gguf);

}  // namespace nanoflow
