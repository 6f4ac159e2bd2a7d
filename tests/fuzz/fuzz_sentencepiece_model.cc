// Any bytes as tokenizer.model: a SentencePiece model, tiktoken ranks, or FormatError.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "formats/sentencepiece_model.h"
#include "formats/tiktoken_model.h"

namespace {

void check(const nanoflow::SentencePieceModel& model) {
  const auto count = static_cast<int32_t>(model.pieces.size());
  for (const int32_t id : {model.unk_id, model.bos_id, model.eos_id, model.pad_id})
    if (id < -1 || id >= count) __builtin_trap();
  for (const nanoflow::SentencePiece& piece : model.pieces)
    if (piece.text.empty() || !std::isfinite(piece.score)) __builtin_trap();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    if (nanoflow::is_tiktoken_model(text)) {
      if (nanoflow::parse_tiktoken_model(text, "input").empty()) __builtin_trap();
    } else {
      check(nanoflow::parse_sentencepiece_model(std::as_bytes(std::span(text)), "input"));
    }
  } catch (const nanoflow::FormatError&) {
  }
  return 0;
}
