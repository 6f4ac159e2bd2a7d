#include "text/tokenizer_loader.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/mmap.h"
#include "text/tokenizer_builders.h"

namespace nanoflow {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLlama3Ranks = 128000;
constexpr size_t kLlama3Specials = 256;

/// Llama 3's special tokens, which its rank file does not hold (llama-models, llama3/tokenizer.py).
void add_llama3_tokens(TokenizerConfig& config) {
  std::vector<std::string> names = {
      "<|begin_of_text|>",
      "<|end_of_text|>",
      "<|reserved_special_token_0|>",
      "<|reserved_special_token_1|>",
      "<|finetune_right_pad_id|>",
      "<|step_id|>",
      "<|start_header_id|>",
      "<|end_header_id|>",
      "<|eom_id|>",
      "<|eot_id|>",
      "<|python_tag|>",
      "<|image|>",
  };
  for (int reserved = 2; names.size() < kLlama3Specials; ++reserved) {
    names.push_back(fmt::format("<|reserved_special_token_{}|>", reserved));
  }
  for (size_t i = 0; i < names.size(); ++i) {
    AddedToken token;
    token.id = static_cast<int32_t>(kLlama3Ranks + i);
    token.content = names[i];
    token.special = true;
    token.normalized = false;
    config.added_tokens.push_back(std::move(token));
  }
  if (!config.bos_token) config.bos_token = names[0];
  if (!config.eos_token) config.eos_token = names[1];
}

Tokenizer load_tiktoken(const fs::path& path, TokenizerConfig config) {
  const TiktokenRanks ranks = read_tiktoken_model(path);
  if (config.added_tokens.empty()) {
    if (ranks.size() != kLlama3Ranks) {
      throw ConfigError(path.string(),
                        "tiktoken ranks without special tokens: tokenizer_config.json needs "
                        "added_tokens_decoder (or use a folder with tokenizer.json)");
    }
    add_llama3_tokens(config);
  }
  if (!config.add_bos_token) config.add_bos_token = true;
  // Published tokenizer.model files of this kind (Llama 3) all use this pattern, and Hugging Face's
  // converter assumes it.
  const PiecePattern pattern{PiecePattern::Kind::kLlama3, 3};
  return build_from_tiktoken(ranks, pattern, Normalizer(), config);
}

}  // namespace

Tokenizer load_tokenizer(const fs::path& dir) {
  const fs::path json = dir / "tokenizer.json";
  const fs::path model = dir / "tokenizer.model";
  TokenizerConfig config = read_tokenizer_config(dir);
  if (file_exists(json)) return build_from_json(read_tokenizer_json(json), config, json.string());
  if (file_exists(model)) {
    const MappedFile file(model);
    const auto bytes = file.bytes();
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (is_tiktoken_model(text)) return load_tiktoken(model, std::move(config));
    return build_from_sentencepiece(parse_sentencepiece_model(bytes, model.string()), config,
                                    model.string());
  }
  throw IoError(dir.string(), "has neither tokenizer.json nor tokenizer.model");
}

}  // namespace nanoflow
