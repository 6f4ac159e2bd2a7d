#include "formats/gguf.h"

#include <algorithm>
#include <array>
#include <limits>

#include <fmt/format.h>

#include "formats/byte_reader.h"

namespace nanoflow {
namespace {

enum class ValueType : uint32_t {
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
  kFloat64,
};

constexpr int kMaxArrayDepth = 4;
constexpr uint32_t kMaxDimensions = 4;
constexpr int64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxNameBytes = 65535;  // the specification's limit of keys

std::string_view read_string(ByteReader& in, std::string_view what) {
  const auto size = in.read<uint64_t>(what);
  return in.take_text(size, what);
}

std::string read_name(ByteReader& in, std::string_view what) {
  const std::string_view name = read_string(in, what);
  if (name.empty() || name.size() > kMaxNameBytes)
    in.fail(fmt::format("{} has {} bytes", what, name.size()));
  return std::string(name);
}

int64_t read_integer(ByteReader& in, ValueType type, std::string_view key) {
  switch (type) {
    case ValueType::kUint8: return in.read<uint8_t>(key);
    case ValueType::kInt8: return in.read<int8_t>(key);
    case ValueType::kUint16: return in.read<uint16_t>(key);
    case ValueType::kInt16: return in.read<int16_t>(key);
    case ValueType::kUint32: return in.read<uint32_t>(key);
    case ValueType::kInt32: return in.read<int32_t>(key);
    case ValueType::kInt64: return in.read<int64_t>(key);
    default: break;
  }
  const auto value = in.read<uint64_t>(key);
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    in.fail(fmt::format("{}: {} is out of range", key, value));
  return static_cast<int64_t>(value);
}

bool is_integer(ValueType type) {
  return type <= ValueType::kInt32 || type == ValueType::kUint64 || type == ValueType::kInt64;
}

/// Smallest encoding of one value: bounds how many a file of this size can hold.
uint64_t least_bytes(ValueType type) {
  constexpr std::array<uint64_t, 13> kBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return kBytes[static_cast<size_t>(type)];
}

ValueType read_type(ByteReader& in, std::string_view key) {
  const auto type = in.read<uint32_t>(key);
  if (type > static_cast<uint32_t>(ValueType::kFloat64))
    in.fail(fmt::format("{}: unknown value type {}", key, type));
  return static_cast<ValueType>(type);
}

GgufValue read_value(ByteReader& in, ValueType type, std::string_view key, int depth);

GgufValue read_array(ByteReader& in, std::string_view key, int depth) {
  if (depth >= kMaxArrayDepth) in.fail(fmt::format("{}: arrays are nested too deeply", key));
  const ValueType type = read_type(in, key);
  const auto count = in.read<uint64_t>(key);
  // Before anything is allocated: each element takes bytes of the file.
  if (count > in.remaining() / least_bytes(type))
    in.fail(fmt::format("{}: declares {} elements, more than the file can hold", key, count));
  const auto fill = [&](auto& out, const auto& read_one) {
    out.reserve(count);
    for (uint64_t i = 0; i < count; ++i) out.push_back(read_one());
  };
  GgufValue result;
  if (is_integer(type)) {
    fill(result.value.emplace<std::vector<int64_t>>(), [&] { return read_integer(in, type, key); });
  } else if (type == ValueType::kFloat32) {
    fill(result.value.emplace<std::vector<double>>(),
         [&] { return static_cast<double>(in.read<float>(key)); });
  } else if (type == ValueType::kFloat64) {
    fill(result.value.emplace<std::vector<double>>(), [&] { return in.read<double>(key); });
  } else if (type == ValueType::kString) {
    fill(result.value.emplace<std::vector<std::string_view>>(),
         [&] { return read_string(in, key); });
  } else {
    auto& items = result.value.emplace<GgufValue::Array>();
    for (uint64_t i = 0; i < count; ++i) items.push_back(read_value(in, type, key, depth + 1));
  }
  return result;
}

GgufValue read_value(ByteReader& in, ValueType type, std::string_view key, int depth) {
  if (is_integer(type)) return {read_integer(in, type, key)};
  switch (type) {
    case ValueType::kFloat32: return {static_cast<double>(in.read<float>(key))};
    case ValueType::kFloat64: return {in.read<double>(key)};
    case ValueType::kBool: return {in.read<uint8_t>(key) != 0};
    case ValueType::kString: return {read_string(in, key)};
    default: return read_array(in, key, depth);
  }
}

/// A tensor's entry of the header; its offset is relative to the data section.
struct TensorInfo {
  GgufTensor tensor;
  uint64_t offset = 0;
};

TensorInfo read_tensor_info(ByteReader& in) {
  TensorInfo info;
  info.tensor.name = read_name(in, "a tensor name");
  const std::string& name = info.tensor.name;
  const auto dimensions = in.read<uint32_t>(name);
  if (dimensions == 0 || dimensions > kMaxDimensions)
    in.fail(fmt::format("tensor {}: {} dimensions", name, dimensions));
  int64_t elements = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto extent = in.read<uint64_t>(name);
    if (extent == 0 ||
        extent > static_cast<uint64_t>(std::numeric_limits<int64_t>::max() / elements))
      in.fail(fmt::format("tensor {}: impossible dimension {}", name, extent));
    elements *= static_cast<int64_t>(extent);
    info.tensor.shape.insert(info.tensor.shape.begin(), static_cast<int64_t>(extent));
  }
  info.tensor.type = static_cast<GgmlType>(in.read<uint32_t>(name));
  info.offset = in.read<uint64_t>(name);
  return info;
}

/// Bytes of a tensor of a type that can be read. Throws when its rows are no whole blocks.
uint64_t tensor_bytes(const ByteReader& in, const GgufTensor& tensor, const GgmlBlock& block) {
  if (tensor.shape.back() % block.elements != 0)
    in.fail(fmt::format("tensor {}: rows of {} are no whole {} blocks", tensor.name,
                        tensor.shape.back(), ggml_type_name(tensor.type)));
  const auto blocks = static_cast<uint64_t>(tensor.elements() / block.elements);
  if (blocks > std::numeric_limits<uint64_t>::max() / static_cast<uint64_t>(block.bytes))
    in.fail(fmt::format("tensor {} is impossibly large", tensor.name));
  return blocks * static_cast<uint64_t>(block.bytes);
}

/// No byte belongs to two tensors.
void check_overlap(const ByteReader& in, const std::vector<GgufTensor>& tensors) {
  std::vector<const GgufTensor*> sorted;
  for (const GgufTensor& tensor : tensors)
    if (!tensor.bytes.empty()) sorted.push_back(&tensor);
  std::sort(sorted.begin(), sorted.end(),
            [](const auto* a, const auto* b) { return a->bytes.data() < b->bytes.data(); });
  for (size_t i = 1; i < sorted.size(); ++i) {
    const auto& before = sorted[i - 1]->bytes;
    if (before.data() + before.size() > sorted[i]->bytes.data())
      in.fail(fmt::format("tensors {} and {} overlap", sorted[i - 1]->name, sorted[i]->name));
  }
}

}  // namespace

std::string ggml_type_name(GgmlType type) {
  switch (type) {
    case GgmlType::kF32: return "F32";
    case GgmlType::kF16: return "F16";
    case GgmlType::kQ4_0: return "Q4_0";
    case GgmlType::kQ4_1: return "Q4_1";
    case GgmlType::kQ5_0: return "Q5_0";
    case GgmlType::kQ5_1: return "Q5_1";
    case GgmlType::kQ8_0: return "Q8_0";
    case GgmlType::kQ4_K: return "Q4_K";
    case GgmlType::kQ5_K: return "Q5_K";
    case GgmlType::kQ6_K: return "Q6_K";
    case GgmlType::kBF16: return "BF16";
  }
  return fmt::format("type {}", static_cast<uint32_t>(type));
}

std::optional<GgmlBlock> ggml_block(GgmlType type) {
  switch (type) {
    case GgmlType::kF32: return GgmlBlock{1, 4};
    case GgmlType::kF16:
    case GgmlType::kBF16: return GgmlBlock{1, 2};
    case GgmlType::kQ4_0: return GgmlBlock{32, 18};
    case GgmlType::kQ4_1: return GgmlBlock{32, 20};
    case GgmlType::kQ5_0: return GgmlBlock{32, 22};
    case GgmlType::kQ5_1: return GgmlBlock{32, 24};
    case GgmlType::kQ8_0: return GgmlBlock{32, 34};
    case GgmlType::kQ4_K: return GgmlBlock{256, 144};
    case GgmlType::kQ5_K: return GgmlBlock{256, 176};
    case GgmlType::kQ6_K: return GgmlBlock{256, 210};
  }
  return std::nullopt;
}

int64_t GgufTensor::elements() const {
  int64_t product = 1;
  for (const int64_t extent : shape) product *= extent;
  return product;
}

GgufFile::GgufFile(const std::filesystem::path& path)
    : name_(path.string()), file_(std::make_unique<MappedFile>(path)) {
  parse(file_->bytes());
}

GgufFile::GgufFile(std::span<const std::byte> bytes, const std::string& name) : name_(name) {
  parse(bytes);
}

void GgufFile::parse(std::span<const std::byte> bytes) {
  ByteReader in(bytes, name_);
  if (in.take_text(4, "the magic number") != "GGUF") in.fail("is no GGUF file");
  version_ = in.read<uint32_t>("the version");
  if (version_ != 0 && (version_ & 0xffff) == 0)
    in.fail("is a big-endian GGUF file; a little-endian one is needed");
  if (version_ != 2 && version_ != 3)
    in.fail(fmt::format("GGUF version {} is not supported (2 and 3 are)", version_));
  const auto num_tensors = in.read<uint64_t>("the tensor count");
  const auto num_keys = in.read<uint64_t>("the key count");
  for (uint64_t i = 0; i < num_keys; ++i) {
    std::string key = read_name(in, "a metadata key");
    GgufValue value = read_value(in, read_type(in, key), key, 0);
    if (!metadata_.emplace(key, std::move(value)).second)
      in.fail(fmt::format("metadata key {} appears twice", key));
    keys_.push_back(std::move(key));
  }
  std::vector<uint64_t> offsets;
  for (uint64_t i = 0; i < num_tensors; ++i) {
    TensorInfo info = read_tensor_info(in);
    if (!tensor_index_.emplace(info.tensor.name, tensors_.size()).second)
      in.fail(fmt::format("tensor {} appears twice", info.tensor.name));
    tensors_.push_back(std::move(info.tensor));
    offsets.push_back(info.offset);
  }
  const int64_t alignment = find_int("general.alignment").value_or(kDefaultAlignment);
  if (alignment <= 0 || alignment > (1 << 20) || (alignment & (alignment - 1)) != 0)
    in.fail(fmt::format("general.alignment is {}", alignment));
  const auto step = static_cast<uint64_t>(alignment);
  const uint64_t begin = (in.position() + step - 1) / step * step;
  const uint64_t size = bytes.size() < begin ? 0 : bytes.size() - begin;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const std::optional<GgmlBlock> block = ggml_block(tensors_[i].type);
    if (!block.has_value()) continue;  // refused by name when somebody reads it
    const uint64_t wanted = tensor_bytes(in, tensors_[i], *block);
    if (offsets[i] % step != 0 || offsets[i] > size || wanted > size - offsets[i])
      in.fail(fmt::format("tensor {} lies outside the file (offset {}, {} bytes of {})",
                          tensors_[i].name, offsets[i], wanted, size));
    tensors_[i].bytes = bytes.subspan(begin + offsets[i], wanted);
  }
  check_overlap(in, tensors_);
}

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto found = metadata_.find(std::string(key));
  return found == metadata_.end() ? nullptr : &found->second;
}

namespace {

template <typename T>
const T* typed(const GgufFile& file, std::string_view key, std::string_view expected) {
  const GgufValue* value = file.find(key);
  if (value == nullptr) return nullptr;
  const T* result = std::get_if<T>(&value->value);
  if (result == nullptr) throw FormatError(file.name(), fmt::format("{} is not {}", key, expected));
  return result;
}

}  // namespace

std::optional<int64_t> GgufFile::find_int(std::string_view key) const {
  const auto* value = typed<int64_t>(*this, key, "an integer");
  return value == nullptr ? std::nullopt : std::optional(*value);
}

std::optional<double> GgufFile::find_double(std::string_view key) const {
  const GgufValue* value = find(key);
  if (value != nullptr && std::holds_alternative<int64_t>(value->value))
    return static_cast<double>(std::get<int64_t>(value->value));
  const auto* number = typed<double>(*this, key, "a number");
  return number == nullptr ? std::nullopt : std::optional(*number);
}

std::optional<bool> GgufFile::find_bool(std::string_view key) const {
  const auto* value = typed<bool>(*this, key, "a boolean");
  return value == nullptr ? std::nullopt : std::optional(*value);
}

std::optional<std::string_view> GgufFile::find_string(std::string_view key) const {
  const auto* value = typed<std::string_view>(*this, key, "a string");
  return value == nullptr ? std::nullopt : std::optional(*value);
}

const std::vector<int64_t>* GgufFile::find_ints(std::string_view key) const {
  return typed<std::vector<int64_t>>(*this, key, "a list of integers");
}

const std::vector<double>* GgufFile::find_doubles(std::string_view key) const {
  return typed<std::vector<double>>(*this, key, "a list of numbers");
}

const std::vector<std::string_view>* GgufFile::find_strings(std::string_view key) const {
  return typed<std::vector<std::string_view>>(*this, key, "a list of strings");
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  const auto found = tensor_index_.find(std::string(name));
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

void GgufFile::drop_pages(const GgufTensor& tensor) const {
  if (file_ == nullptr || tensor.bytes.empty()) return;
  file_->drop_pages(static_cast<size_t>(tensor.bytes.data() - file_->bytes().data()),
                    tensor.bytes.size());
}

}  // namespace nanoflow
