#include "base/error.h"

namespace nanoflow {

IoError::IoError(const std::string& path, const std::string& why)
    : EnvironmentError(path + ": " + why) {}

FormatError::FormatError(const std::string& path, const std::string& why)
    : EnvironmentError(path + ": " + why) {}

ConfigError::ConfigError(const std::string& field, const std::string& why)
    : EnvironmentError(field + ": " + why) {}

}  // namespace nanoflow
