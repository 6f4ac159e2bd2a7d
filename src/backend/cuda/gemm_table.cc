#include "backend/cuda/gemm_table.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"
#include "base/json.h"
#include "base/mmap.h"
#include "base/result.h"

namespace nanoflow::cuda {
namespace {

constexpr size_t kDigits = 16;  // of a word

std::string hex(const std::array<uint64_t, 8>& words) {
  std::string text;
  for (const uint64_t word : words) text += fmt::format("{:016x}", word);
  return text;
}

bool parse_hex(std::string_view text, std::array<uint64_t, 8>& words) {
  if (text.size() != words.size() * kDigits) return false;
  for (size_t i = 0; i < words.size(); ++i) {
    const char* begin = text.data() + i * kDigits;
    const auto [end, error] = std::from_chars(begin, begin + kDigits, words[i], 16);
    if (error != std::errc{} || end != begin + kDigits) return false;
  }
  return true;
}

int64_t positive(const Json& object, const char* name, const std::string& path,
                 const std::string& where) {
  const Json* value = object.find(name);
  if (value == nullptr || !value->is_int() || value->as_int() <= 0)
    throw FormatError(path, fmt::format("{}{} must be a positive integer", where, name));
  return value->as_int();
}

DType dtype(const Json& object, const char* name, const std::string& path,
            const std::string& where) {
  const Json* value = object.find(name);
  if (value != nullptr && value->is_string())
    for (const DType type : {DType::kBF16, DType::kF16, DType::kF32})
      if (value->as_string() == dtype_name(type)) return type;
  throw FormatError(path, fmt::format("{}{} must be bfloat16, float16 or float32", where, name));
}

double number(const Json& object, const char* name) {
  const Json* value = object.find(name);
  return value != nullptr && value->is_number() ? value->as_double() : 0;
}

const Json::Array& array(const Json& object, const char* name, const std::string& path) {
  const Json* value = object.find(name);
  if (value == nullptr || !value->is_array())
    throw FormatError(path, fmt::format("{} must be an array", name));
  return value->as_array();
}

GemmEntry parse_entry(const Json& object, const std::string& path, const std::string& where) {
  GemmEntry entry{.rows = positive(object, "rows", path, where),
                  .n = positive(object, "n", path, where),
                  .k = positive(object, "k", path, where),
                  .dtype = dtype(object, "dtype", path, where),
                  .out_dtype = dtype(object, "out", path, where),
                  .algorithm = {},
                  .microseconds = number(object, "us"),
                  .default_microseconds = number(object, "default_us")};
  const Json* words = object.find("algorithm");
  if (words == nullptr || !words->is_string() || !parse_hex(words->as_string(), entry.algorithm))
    throw FormatError(path, where + "algorithm must be 128 hexadecimal digits");
  return entry;
}

}  // namespace

GemmTable GemmTable::parse(std::string_view json, const std::string& path) {
  const Result<Json> document = parse_json(json);
  if (!document) throw FormatError(path, document.error().message);
  GemmTable table({}, static_cast<uint64_t>(positive(*document, "cublaslt", path, "")));
  for (const Json& name : array(*document, "devices", path)) {
    if (!name.is_string()) throw FormatError(path, "devices must hold strings");
    table.devices_.push_back(name.as_string());
  }
  const Json::Array& entries = array(*document, "entries", path);
  for (size_t i = 0; i < entries.size(); ++i)
    table.set(parse_entry(entries[i], path, fmt::format("entries[{}].", i)));
  return table;
}

GemmTable GemmTable::read(const std::string& path) {
  const MappedFile file(path);
  const std::span<const std::byte> bytes = file.bytes();
  return parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

std::string GemmTable::to_json() const {
  Json devices = Json::array();
  for (const std::string& name : devices_) devices.push_back(name);
  // One entry a line: tables are read and compared by people.
  std::string text = fmt::format("{{\"devices\": {}, \"cublaslt\": {}, \"entries\": [",
                                 devices.dump(-1, true), library_);
  for (size_t i = 0; i < entries_.size(); ++i) {
    const GemmEntry& e = entries_[i];
    text += fmt::format(
        "{}\n{{\"n\": {}, \"k\": {}, \"rows\": {}, \"dtype\": \"{}\", \"out\": \"{}\", "
        "\"us\": {:.1f}, \"default_us\": {:.1f}, \"algorithm\": \"{}\"}}",
        i == 0 ? "" : ",", e.n, e.k, e.rows, dtype_name(e.dtype), dtype_name(e.out_dtype),
        e.microseconds, e.default_microseconds, hex(e.algorithm));
  }
  return text + "\n]}\n";
}

bool GemmTable::applies(std::string_view device, uint64_t library) const {
  return library == library_ &&
         std::find(devices_.begin(), devices_.end(), device) != devices_.end();
}

void GemmTable::set(const GemmEntry& entry) {
  const GemmEntry* old = find(entry.rows, entry.n, entry.k, entry.dtype, entry.out_dtype);
  if (old == nullptr)
    entries_.push_back(entry);
  else
    entries_[static_cast<size_t>(old - entries_.data())] = entry;
}

const GemmEntry* GemmTable::find(int64_t rows, int64_t n, int64_t k, DType dtype,
                                 DType out_dtype) const {
  for (const GemmEntry& e : entries_)
    if (e.rows == rows && e.n == n && e.k == k && e.dtype == dtype && e.out_dtype == out_dtype)
      return &e;
  return nullptr;
}

}  // namespace nanoflow::cuda
