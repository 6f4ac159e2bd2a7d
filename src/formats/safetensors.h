// safetensors: named tensors behind a JSON header, in one file or in shards with an index, read by
// mmap.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/mmap.h"
#include "tensor/dtype.h"

namespace nanoflow {

/// One tensor's place in a file. `bytes` is exactly shape * dtype size.
struct SafetensorsEntry {
  std::string name;
  std::string stored_dtype;    ///< as written: "BF16", "F64", ...
  std::optional<DType> dtype;  ///< none for types this program does not read
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Parses the header of `file_bytes` (a whole file) and returns its tensors in file order. Throws
/// FormatError naming `name` and the tensor: truncated, bad JSON, offsets that lie outside the
/// data, overlap, or do not match shape and dtype, sizes that overflow, duplicate names.
std::vector<SafetensorsEntry> parse_safetensors(std::span<const std::byte> file_bytes,
                                                const std::string& name);

/// All tensors of a checkpoint folder: model.safetensors, or the shards that
/// model.safetensors.index.json names. Immutable; safe to read from any thread. Entries stay valid
/// while it lives.
class SafetensorsSet {
 public:
  /// `path`: a folder, or one .safetensors file. Throws IoError (nothing there, a shard is missing)
  /// or FormatError (also: a tensor of the index is not in its shard, or in two).
  explicit SafetensorsSet(const std::filesystem::path& path);

  /// nullptr when there is no such tensor.
  [[nodiscard]] const SafetensorsEntry* find(std::string_view name) const;
  /// In the order of the files.
  [[nodiscard]] const std::vector<SafetensorsEntry>& entries() const { return entries_; }
  /// Where this was read from.
  [[nodiscard]] const std::string& name() const { return name_; }
  /// Copies out.size() bytes of `entry`, one of entries(), from `offset` on, which must be inside
  /// it. Throws IoError.
  void read(const SafetensorsEntry& entry, size_t offset, std::span<std::byte> out) const;
  /// Lets the system reclaim the pages of `entry`; it can still be read.
  void drop_pages(const SafetensorsEntry& entry) const;

 private:
  void add_file(const std::filesystem::path& path);
  void read_index(const std::filesystem::path& index);

  std::string name_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::vector<SafetensorsEntry> entries_;
  std::vector<size_t> file_of_entry_;
  std::unordered_map<std::string, size_t> index_;
};

/// A tensor to write: row-major, contiguous.
struct SafetensorsOutput {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};

/// Writes one file, atomically. Throws IoError.
void write_safetensors(const std::filesystem::path& path,
                       const std::vector<SafetensorsOutput>& tensors);

}  // namespace nanoflow
