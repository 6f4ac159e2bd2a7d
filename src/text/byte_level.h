// GPT-2's spelling of bytes as printable characters, which byte-level vocabularies are written in.
#pragma once

#include <string>
#include <string_view>

namespace nanoflow {

/// The bytes that `token` spells; false (and `out` unspecified) when it has a character that stands
/// for no byte.
[[nodiscard]] bool bytes_of_byte_level(std::string_view token, std::string& out);

/// The spelling of `bytes`. Inverse of the above.
[[nodiscard]] std::string byte_level_of_bytes(std::string_view bytes);

}  // namespace nanoflow
