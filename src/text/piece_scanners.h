// The pre-tokeniser patterns that published models use, as hand-written scanners. Each takes valid
// UTF-8 and a position, and returns the end of the piece (pattern match) that starts there. The
// pieces tile the text. Time over a whole text is linear.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace nanoflow {

/// A pattern that has a scanner here.
struct PiecePattern {
  enum class Kind : uint8_t {
    kGpt2,    ///< GPT-2: contractions in lower case, runs of letters, numbers, others, white space
    kLlama3,  ///< Llama 3 and Qwen2: any-case contractions, numbers of at most `max_digits`
    kDigits,  ///< numbers apart from the rest: each one alone if `max_digits` is 1, else as runs
  };
  Kind kind = Kind::kGpt2;
  uint32_t max_digits = 0;  ///< 0: no limit
};

/// The regular expressions that the scanners equal, as checkpoints spell them.
inline constexpr std::string_view kGpt2Regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kLlama3Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
inline constexpr std::string_view kQwen2Regex =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// The scanner that equals `regex`, or nullopt.
[[nodiscard]] std::optional<PiecePattern> known_pattern(std::string_view regex);

/// End of the piece that starts at `pos` < text.size(); always > pos.
[[nodiscard]] size_t next_piece(const PiecePattern& pattern, std::string_view text, size_t pos);

}  // namespace nanoflow
