// Any text as tokenizer.json: a vocabulary that fits its input, or FormatError.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/error.h"
#include "formats/tokenizer_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto tokenizer = nanoflow::parse_tokenizer_json(
        std::string_view(reinterpret_cast<const char*>(data), size), "input");
    if (tokenizer.vocab.size() > size + 1) __builtin_trap();
    for (const auto& [left, right] : tokenizer.merges)
      if (left.empty() || right.empty()) __builtin_trap();
    for (const nanoflow::AddedToken& token : tokenizer.added_tokens)
      if (token.id < 0 || token.content.empty()) __builtin_trap();
    for (const nanoflow::Json* part : {&tokenizer.normalizer, &tokenizer.pre_tokenizer,
                                       &tokenizer.post_processor, &tokenizer.decoder})
      if (!part->is_null() && !part->is_object()) __builtin_trap();
  } catch (const nanoflow::FormatError&) {
  }
  return 0;
}
