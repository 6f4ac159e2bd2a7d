// tiktoken's BPE rank files (Llama 3's and Qwen's): one line per token, its bytes in base64 and its
// rank.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace nanoflow {

/// Token bytes by rank, which is also the token's id: ranks are 0, 1, 2, ... without holes.
using TiktokenRanks = std::vector<std::string>;

/// Throws IoError, or FormatError naming the line (bad base64, bad or repeated rank, hole, repeated
/// token).
TiktokenRanks read_tiktoken_model(const std::filesystem::path& path);
/// The same from memory; `name` stands for the path in messages.
TiktokenRanks parse_tiktoken_model(std::string_view text, const std::string& name);

/// Whether a tokenizer.model looks like such a file (its first line is "<base64> <number>").
bool is_tiktoken_model(std::string_view text);

}  // namespace nanoflow
