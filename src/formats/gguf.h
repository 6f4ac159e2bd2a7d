// GGUF v2 and v3: one file with typed metadata, a tokenizer and (quantised) tensors, read by mmap.
// Dequantising is in dequant.h; what the keys mean is for model/ and text/ to say.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "base/mmap.h"

namespace nanoflow {

/// Storage types of GGUF tensors, with the file format's own numbers.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

/// "Q4_1"; "type 99" for numbers without a name here.
std::string ggml_type_name(GgmlType type);

/// Elements and bytes of one block; nullopt for types that cannot be read.
struct GgmlBlock {
  int64_t elements = 0;
  int64_t bytes = 0;
};
std::optional<GgmlBlock> ggml_block(GgmlType type);

/// A metadata value. Integers of all widths become int64 (uint64 above its range is refused).
struct GgufValue {
  using Array = std::vector<GgufValue>;
  /// A string points into the file. Arrays of numbers and strings are typed vectors: a vocabulary
  /// has 100,000 entries.
  std::variant<int64_t, double, bool, std::string_view, std::vector<int64_t>, std::vector<double>,
               std::vector<std::string_view>, Array>
      value;
};

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t> shape;  ///< outermost first: [rows, cols] (the file stores the reverse)
  std::span<const std::byte> bytes;  ///< the data, in the file

  [[nodiscard]] int64_t elements() const;
};

/// An open GGUF file. Immutable; safe to read from any thread. Views stay valid while it lives.
class GgufFile {
 public:
  /// Throws IoError, or FormatError naming what is wrong (bad magic or version, counts or lengths
  /// beyond the file, duplicate keys or tensors, offsets outside the data, overlapping tensors,
  /// sizes that overflow).
  explicit GgufFile(const std::filesystem::path& path);
  /// The same over memory that outlives the object; `name` stands for the path in messages.
  GgufFile(std::span<const std::byte> bytes, const std::string& name);
  GgufFile(GgufFile&&) noexcept = default;
  GgufFile& operator=(GgufFile&&) noexcept = default;

  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] uint32_t version() const { return version_; }

  /// The value of a metadata key, or nullptr.
  [[nodiscard]] const GgufValue* find(std::string_view key) const;
  // Typed look-ups: nullopt (or nullptr) when absent; FormatError naming the key when of another
  // type.
  [[nodiscard]] std::optional<int64_t> find_int(std::string_view key) const;
  [[nodiscard]] std::optional<double> find_double(std::string_view key) const;  ///< integers, too
  [[nodiscard]] std::optional<bool> find_bool(std::string_view key) const;
  [[nodiscard]] std::optional<std::string_view> find_string(std::string_view key) const;
  [[nodiscard]] const std::vector<int64_t>* find_ints(std::string_view key) const;
  [[nodiscard]] const std::vector<double>* find_doubles(std::string_view key) const;
  [[nodiscard]] const std::vector<std::string_view>* find_strings(std::string_view key) const;

  /// Metadata keys in file order.
  [[nodiscard]] const std::vector<std::string>& keys() const { return keys_; }
  /// Tensors in file order.
  [[nodiscard]] const std::vector<GgufTensor>& tensors() const { return tensors_; }
  /// nullptr when there is none of this name.
  [[nodiscard]] const GgufTensor* find_tensor(std::string_view name) const;
  /// Lets the system reclaim the pages of `tensor`; it can still be read.
  void drop_pages(const GgufTensor& tensor) const;

 private:
  void parse(std::span<const std::byte> bytes);

  std::string name_;
  std::unique_ptr<MappedFile> file_;  // null when made over memory
  uint32_t version_ = 0;
  std::vector<std::string> keys_;
  std::unordered_map<std::string, GgufValue> metadata_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string, size_t> tensor_index_;
};

}  // namespace nanoflow
