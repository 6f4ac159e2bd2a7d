// Builds GGUF files in memory for tests, lies included: nothing here is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nanoflow::format_testing {

/// Appends little-endian numbers and strings with 64-bit lengths.
class GgufBytes {
 public:
  template <typename T>
  GgufBytes& number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  GgufBytes& text(std::string_view value) {
    number<uint64_t>(value.size());
    bytes_.append(value);
    return *this;
  }
  GgufBytes& raw(std::string_view value) {
    bytes_.append(value);
    return *this;
  }
  [[nodiscard]] const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

/// The file format's numbers of value types.
enum GgufKind : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};

/// A file in the making. Counts follow from what was added unless they are set.
struct GgufTestFile {
  std::string magic = "GGUF";
  uint32_t version = 3;
  int64_t num_tensors = -1;  ///< -1: as many as were added
  int64_t num_keys = -1;
  uint64_t alignment = 32;
  GgufBytes metadata;
  GgufBytes infos;
  std::string data;
  int64_t keys = 0;
  int64_t tensors = 0;

  /// Starts a key; its value follows in `metadata`.
  GgufBytes& key(std::string_view name, uint32_t kind) {
    ++keys;
    return metadata.text(name).number(kind);
  }
  /// A tensor at `offset` of the data; `dims` innermost first, as in the file.
  GgufTestFile& tensor(std::string_view name, std::initializer_list<uint64_t> dims, uint32_t type,
                       uint64_t offset) {
    ++tensors;
    infos.text(name).number(static_cast<uint32_t>(dims.size()));
    for (const uint64_t extent : dims) infos.number(extent);
    infos.number(type).number(offset);
    return *this;
  }
  [[nodiscard]] std::string bytes() const {
    GgufBytes out;
    out.raw(magic).number(version);
    out.number<uint64_t>(static_cast<uint64_t>(num_tensors < 0 ? tensors : num_tensors));
    out.number<uint64_t>(static_cast<uint64_t>(num_keys < 0 ? keys : num_keys));
    out.raw(metadata.bytes()).raw(infos.bytes());
    if (tensors > 0)
      out.raw(std::string((alignment - out.bytes().size() % alignment) % alignment, '\0'));
    return out.raw(data).bytes();
  }
};

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace nanoflow::format_testing
