#include "formats/safetensors.h"

#include <algorithm>
#include <array>
#include <limits>
#include <set>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "base/json.h"
#include "formats/byte_reader.h"

namespace nanoflow {
namespace {

// The reference implementation's limit (safetensors/src/tensor.rs, MAX_HEADER_SIZE); a 100-layer
// mixture of 128 experts has about 4 MB.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

struct StoredType {
  std::string_view name;
  int64_t bits;
  std::optional<DType> dtype;
};

constexpr std::array<StoredType, 15> kStoredTypes = {{{"F32", 32, DType::kF32},
                                                      {"F16", 16, DType::kF16},
                                                      {"BF16", 16, DType::kBF16},
                                                      {"F8_E4M3", 8, DType::kF8E4M3},
                                                      {"I32", 32, DType::kI32},
                                                      {"I64", 64, DType::kI64},
                                                      {"U8", 8, DType::kU8},
                                                      {"F64", 64, std::nullopt},
                                                      {"F8_E5M2", 8, std::nullopt},
                                                      {"I16", 16, std::nullopt},
                                                      {"U16", 16, std::nullopt},
                                                      {"U32", 32, std::nullopt},
                                                      {"U64", 64, std::nullopt},
                                                      {"I8", 8, std::nullopt},
                                                      {"BOOL", 8, std::nullopt}}};

const StoredType* stored_type(std::string_view name) {
  const auto* found = std::find_if(kStoredTypes.begin(), kStoredTypes.end(),
                                   [&](const StoredType& type) { return type.name == name; });
  return found == kStoredTypes.end() ? nullptr : found;
}

std::string_view stored_name(DType dtype) {
  for (const StoredType& type : kStoredTypes)
    if (type.dtype == dtype) return type.name;
  return "";
}

/// A list of non-negative integers; nullopt when it is anything else.
std::optional<std::vector<int64_t>> natural_numbers(const Json* json) {
  if (json == nullptr || !json->is_array()) return std::nullopt;
  std::vector<int64_t> numbers;
  for (const Json& item : json->as_array()) {
    if (!item.is_int() || item.as_int() < 0) return std::nullopt;
    numbers.push_back(item.as_int());
  }
  return numbers;
}

SafetensorsEntry read_entry(const ByteReader& in, const std::string& name, const Json& json,
                            std::span<const std::byte> data) {
  const auto fail = [&](const std::string& why) {
    in.fail(fmt::format("tensor {}: {}", name, why));
  };
  SafetensorsEntry entry;
  entry.name = name;
  const Json* dtype = json.find("dtype");
  if (dtype == nullptr || !dtype->is_string()) fail("has no dtype");
  entry.stored_dtype = dtype->as_string();
  auto shape = natural_numbers(json.find("shape"));
  if (!shape.has_value()) fail("its shape is no list of sizes");
  entry.shape = std::move(*shape);
  const auto offsets = natural_numbers(json.find("data_offsets"));
  if (!offsets.has_value() || offsets->size() != 2) fail("its data_offsets are no pair of offsets");
  const int64_t begin = (*offsets)[0];
  const int64_t end = (*offsets)[1];
  if (begin > end || end > static_cast<int64_t>(data.size()))
    fail(fmt::format("offsets [{}, {}) lie outside the {} bytes of data", begin, end, data.size()));
  entry.bytes = data.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  const StoredType* type = stored_type(entry.stored_dtype);
  // An unknown type is refused by name when somebody reads it, but its shape is shown before: the
  // number of elements fits, whatever their size.
  int64_t bits = type == nullptr ? 1 : type->bits;
  for (const int64_t extent : entry.shape) {
    if (extent != 0 && bits > std::numeric_limits<int64_t>::max() / extent)
      fail("its shape is impossibly large");
    bits *= extent;
  }
  if (type == nullptr) return entry;
  if (bits / 8 != end - begin)
    fail(fmt::format("{} {} needs {} bytes, but its offsets span {}", entry.stored_dtype,
                     fmt::format("[{}]", fmt::join(entry.shape, ", ")), bits / 8, end - begin));
  entry.dtype = type->dtype;
  return entry;
}

void check_overlap(const ByteReader& in, const std::vector<SafetensorsEntry>& entries) {
  std::vector<const SafetensorsEntry*> sorted;
  for (const SafetensorsEntry& entry : entries)
    if (!entry.bytes.empty()) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(),
            [](const auto* a, const auto* b) { return a->bytes.data() < b->bytes.data(); });
  for (size_t i = 1; i < sorted.size(); ++i) {
    const auto& before = sorted[i - 1]->bytes;
    if (before.data() + before.size() > sorted[i]->bytes.data())
      in.fail(fmt::format("tensors {} and {} overlap", sorted[i - 1]->name, sorted[i]->name));
  }
}

}  // namespace

std::vector<SafetensorsEntry> parse_safetensors(std::span<const std::byte> file_bytes,
                                                const std::string& name) {
  ByteReader in(file_bytes, name);
  const auto header_size = in.read<uint64_t>("the header's size");
  if (header_size > kMaxHeaderBytes)
    in.fail(fmt::format("declares a header of {} bytes; this is no safetensors file", header_size));
  const std::string_view header = in.take_text(header_size, "the header");
  const std::span<const std::byte> data = in.take(in.remaining(), "the data");
  const Result<Json> json = parse_json(header);
  if (!json.has_value()) in.fail("header: " + json.error().message);
  if (!json->is_object()) in.fail("header: is no JSON object");
  std::vector<SafetensorsEntry> entries;
  std::set<std::string_view> seen;
  for (const auto& [key, value] : json->as_object()) {
    if (key == "__metadata__") continue;
    if (!seen.insert(key).second) in.fail(fmt::format("tensor {} appears twice", key));
    entries.push_back(read_entry(in, key, value, data));
  }
  check_overlap(in, entries);
  return entries;
}

SafetensorsSet::SafetensorsSet(const std::filesystem::path& path) : name_(path.string()) {
  std::error_code unreadable;  // such a path ends below, with an IoError that says why
  if (!std::filesystem::is_directory(path, unreadable)) {
    add_file(path);
  } else if (std::filesystem::exists(path / "model.safetensors.index.json", unreadable)) {
    read_index(path / "model.safetensors.index.json");
  } else if (std::filesystem::exists(path / "model.safetensors", unreadable)) {
    add_file(path / "model.safetensors");
  } else {
    const bool has_pickles =
        std::filesystem::exists(path / "pytorch_model.bin", unreadable) ||
        std::filesystem::exists(path / "pytorch_model.bin.index.json", unreadable);
    throw IoError(
        name_,
        fmt::format("has neither model.safetensors nor model.safetensors.index.json{}",
                    has_pickles
                        ? "; convert its pytorch_model.bin, which cannot be read, to safetensors"
                        : ""));
  }
}

void SafetensorsSet::add_file(const std::filesystem::path& path) {
  files_.push_back(std::make_unique<MappedFile>(path));
  for (SafetensorsEntry& entry : parse_safetensors(files_.back()->bytes(), path.string())) {
    if (!index_.emplace(entry.name, entries_.size()).second)
      throw FormatError(path.string(),
                        one_line(fmt::format("tensor {} is in another shard, too", entry.name)));
    entries_.push_back(std::move(entry));
    file_of_entry_.push_back(files_.size() - 1);
  }
}

void SafetensorsSet::read_index(const std::filesystem::path& index) {
  const Result<Json> json = parse_json(read_file(index));
  if (!json.has_value()) throw FormatError(index.string(), json.error().message);
  const Json* map = json->find("weight_map");
  if (map == nullptr || !map->is_object())
    throw FormatError(index.string(), "has no weight_map object");
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map->as_object()) {
    if (!shard.is_string())
      throw FormatError(index.string(), one_line(tensor + ": its shard is no string"));
    // A shard is a file beside the index; anything else would read where the checkpoint may not
    // point.
    if (shard.as_string().empty() ||
        shard.as_string().find_first_of(std::string_view("/\0", 2)) != std::string::npos)
      throw FormatError(index.string(), one_line(fmt::format("{}: bad shard name \"{}\"", tensor,
                                                             shard.as_string())));
    shards.insert(shard.as_string());
  }
  for (const std::string& shard : shards) {
    const std::filesystem::path path = index.parent_path() / shard;
    std::error_code unreadable;
    if (!std::filesystem::exists(path, unreadable))
      throw IoError(path.string(), "this shard of the checkpoint is missing; download it again");
    add_file(path);
  }
  for (const auto& [tensor, shard] : map->as_object()) {
    const auto found = index_.find(tensor);
    if (found == index_.end() ||
        files_[file_of_entry_[found->second]]->path().filename() != shard.as_string())
      throw FormatError(index.string(),
                        one_line(fmt::format("tensor {} is not in {}", tensor, shard.as_string())));
  }
}

const SafetensorsEntry* SafetensorsSet::find(std::string_view name) const {
  const auto found = index_.find(std::string(name));
  return found == index_.end() ? nullptr : &entries_[found->second];
}

void SafetensorsSet::read(const SafetensorsEntry& entry, size_t offset,
                          std::span<std::byte> out) const {
  const auto index = static_cast<size_t>(&entry - entries_.data());
  NANO_CHECK(index < entries_.size(), "an entry of another set");
  NANO_CHECK(offset <= entry.bytes.size() && out.size() <= entry.bytes.size() - offset,
             "{} bytes at {} of {}", out.size(), offset, entry.bytes.size());
  const MappedFile& file = *files_[file_of_entry_[index]];
  file.read(static_cast<size_t>(entry.bytes.data() - file.bytes().data()) + offset, out);
}

void SafetensorsSet::drop_pages(const SafetensorsEntry& entry) const {
  const auto found = index_.find(entry.name);
  if (found == index_.end() || entry.bytes.empty()) return;
  const MappedFile& file = *files_[file_of_entry_[found->second]];
  file.drop_pages(static_cast<size_t>(entry.bytes.data() - file.bytes().data()),
                  entry.bytes.size());
}

void write_safetensors(const std::filesystem::path& path,
                       const std::vector<SafetensorsOutput>& tensors) {
  Json header = Json::object();
  int64_t offset = 0;
  for (const SafetensorsOutput& tensor : tensors) {
    Json::Array shape;
    for (const int64_t extent : tensor.shape) shape.emplace_back(extent);
    const auto size = static_cast<int64_t>(tensor.bytes.size());
    header.set(tensor.name, Json::object({{"dtype", stored_name(tensor.dtype)},
                                          {"shape", std::move(shape)},
                                          {"data_offsets", Json::array({offset, offset + size})}}));
    offset += size;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the format asks for 8-byte aligned data
  const uint64_t size = text.size();
  std::string content(reinterpret_cast<const char*>(&size), sizeof(size));
  content += text;
  for (const SafetensorsOutput& tensor : tensors)
    content.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  write_file_atomically(path, content);
}

}  // namespace nanoflow
