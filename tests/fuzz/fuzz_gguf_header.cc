// Any bytes as a GGUF file: metadata and tensors that lie inside the file, or FormatError. Small
// tensors are dequantised, too.
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "formats/dequant.h"
#include "formats/gguf.h"

namespace {

// Every typed look-up of a key: an answer, nothing, or FormatError.
void look_up(const nanoflow::GgufFile& file, const std::string& key) {
  const auto attempt = [&](auto member) {
    try {
      static_cast<void>((file.*member)(key));
    } catch (const nanoflow::FormatError&) {
    }
  };
  attempt(&nanoflow::GgufFile::find_int);
  attempt(&nanoflow::GgufFile::find_double);
  attempt(&nanoflow::GgufFile::find_bool);
  attempt(&nanoflow::GgufFile::find_ints);
  attempt(&nanoflow::GgufFile::find_doubles);
  attempt(&nanoflow::GgufFile::find_string);
  attempt(&nanoflow::GgufFile::find_strings);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    const nanoflow::GgufFile file(bytes, "input");
    for (const std::string& key : file.keys()) {
      if (file.find(key) == nullptr) __builtin_trap();
      look_up(file, key);
    }
    std::vector<float> values;
    for (const nanoflow::GgufTensor& tensor : file.tensors()) {
      if (file.find_tensor(tensor.name) != &tensor) __builtin_trap();
      if (!nanoflow::ggml_block(tensor.type).has_value()) continue;
      values.resize(static_cast<size_t>(tensor.elements()));  // bounded by the input's size
      nanoflow::dequantize(tensor.type, tensor.bytes, values);
    }
  } catch (const nanoflow::FormatError&) {
  }
  return 0;
}
