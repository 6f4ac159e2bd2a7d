// Downloading models, for the commands that are given a hub id.
#pragma once

#include <filesystem>
#include <string>

namespace nanoflow {

/// The local folder of a hub model: from the cache when it is complete there, else downloaded with
/// a progress bar on stderr. Throws NetworkError, IoError.
std::filesystem::path pull_model(const std::string& repo, const std::string& revision);

}  // namespace nanoflow
