// GGML block formats to float. Layouts are those of the published format (ggml's block_q*
// structures).
#pragma once

#include <cstddef>
#include <span>

#include "formats/gguf.h"

namespace nanoflow {

/// Dequantises whole blocks: out.size() elements of `type` from `bytes`.
/// NANO_CHECKs that the type can be read (ggml_block) and that sizes agree.
void dequantize(GgmlType type, std::span<const std::byte> bytes, std::span<float> out);

}  // namespace nanoflow
