#include "app/stored_types.h"

#include <algorithm>
#include <map>
#include <system_error>

#include "base/error.h"
#include "base/mmap.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"

namespace nanoflow {
namespace {

class Tally {
 public:
  void add(const std::string& type, size_t bytes) {
    StoredType& entry = types_[type];
    entry.name = type;
    ++entry.tensors;
    entry.bytes += static_cast<int64_t>(bytes);
  }
  [[nodiscard]] std::vector<StoredType> sorted() const {
    std::vector<StoredType> types;
    for (const auto& [name, type] : types_) types.push_back(type);
    std::stable_sort(types.begin(), types.end(),
                     [](const StoredType& a, const StoredType& b) { return a.bytes > b.bytes; });
    return types;
  }

 private:
  std::map<std::string, StoredType> types_;
};

}  // namespace

bool has_weights(const std::filesystem::path& model) {
  if (!is_folder(model)) return true;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(model, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::filesystem::path name = entry->path().filename();
    for (const char* type : {".safetensors", ".bin", ".pt", ".pth"})
      if (name.extension() == type) return true;
    if (name == "model.safetensors.index.json") return true;
  }
  if (error) throw IoError(model.string(), "cannot list: " + error.message());
  return false;
}

std::vector<StoredType> stored_types(const std::filesystem::path& model) {
  Tally tally;
  if (!is_folder(model)) {
    const GgufFile file(model);
    for (const GgufTensor& tensor : file.tensors())
      tally.add(ggml_type_name(tensor.type), tensor.bytes.size());
    return tally.sorted();
  }
  if (!file_exists(model / "model.safetensors") &&
      !file_exists(model / "model.safetensors.index.json"))
    return {};
  const SafetensorsSet files(model);
  for (const SafetensorsEntry& entry : files.entries())
    tally.add(entry.stored_dtype, entry.bytes.size());
  return tally.sorted();
}

}  // namespace nanoflow
