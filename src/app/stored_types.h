// What a checkpoint's tensors are stored as, by type, in the words of their file format.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace nanoflow {

struct StoredType {
  std::string name;  ///< "Q4_1", "F32", "BF16"
  int64_t tensors = 0;
  int64_t bytes = 0;
};

/// Whether `model` is a .gguf file, or a folder with files that may be weights, in whatever format.
/// False for one that has only a config.json, which dummy weights can serve. Throws IoError.
bool has_weights(const std::filesystem::path& model);

/// Types of all tensors of a .gguf file or a folder of safetensors, most bytes first; empty for a
/// folder that has only a config.json. Reads headers only. Throws IoError, FormatError.
std::vector<StoredType> stored_types(const std::filesystem::path& model);

}  // namespace nanoflow
