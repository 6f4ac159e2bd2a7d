// Exceptions for what the *environment* can cause: files, devices, network, operator settings.
// They are caught in main() or at a thread's top and end as one line that says what to do.
#pragma once

#include <stdexcept>
#include <string>

namespace nanoflow {

/// Base of all environment failures; what() is one line for a person, no stack or type names.
class EnvironmentError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A file or directory is missing, unreadable or cannot be written.
class IoError : public EnvironmentError {
 public:
  IoError(const std::string& path, const std::string& why);
};

/// A file was read but its content is not what its format promises (truncated, lying header, ...).
class FormatError : public EnvironmentError {
 public:
  FormatError(const std::string& path, const std::string& why);
};

/// An operator's setting or a checkpoint's configuration value is missing, invalid or unsupported.
class ConfigError : public EnvironmentError {
 public:
  ConfigError(const std::string& field, const std::string& why);
};

/// An allocation did not fit; the message says what to lower.
class OutOfMemory : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

/// A device did not finish its work in time, and nothing says that it ever will. Whatever it may
/// still touch must be abandoned (base/abandoned.h) instead of freed.
class DeviceHang : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

/// A download or connection failed; the message names the URL and the remedy.
class NetworkError : public EnvironmentError {
 public:
  using EnvironmentError::EnvironmentError;
};

}  // namespace nanoflow
