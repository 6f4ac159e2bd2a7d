// ByteReader: bounded little-endian reads from untrusted bytes. Running out throws FormatError,
// always before memory is touched or allocated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

#include "base/error.h"

namespace nanoflow {

/// `why` as one line for a person: what it quotes from a file may be long or hold control
/// characters.
inline std::string one_line(std::string_view why) {
  constexpr size_t kLongest = 400;
  std::string line;
  for (const char c : why.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      fmt::format_to(std::back_inserter(line), "\\x{:02x}", byte);
    } else {
      line += c;
    }
  }
  return why.size() > kLongest ? line + "..." : line;
}

class ByteReader {
 public:
  /// `name` is the file, for messages.
  ByteReader(std::span<const std::byte> bytes, std::string name)
      : bytes_(bytes), name_(std::move(name)) {}

  [[nodiscard]] size_t position() const { return position_; }
  [[nodiscard]] size_t remaining() const { return bytes_.size() - position_; }
  [[nodiscard]] const std::string& name() const { return name_; }

  /// A plain number. `what` says what is read, for messages.
  template <typename T>
  [[nodiscard]] T read(std::string_view what) {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  [[nodiscard]] std::span<const std::byte> take(uint64_t size, std::string_view what) {
    if (size > remaining())
      fail(fmt::format("ends inside {} ({} bytes wanted, {} left)", what, size, remaining()));
    const auto part = bytes_.subspan(position_, static_cast<size_t>(size));
    position_ += static_cast<size_t>(size);
    return part;
  }

  [[nodiscard]] std::string_view take_text(uint64_t size, std::string_view what) {
    const auto part = take(size, what);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }

  [[noreturn]] void fail(const std::string& why) const { throw FormatError(name_, one_line(why)); }

 private:
  std::span<const std::byte> bytes_;
  std::string name_;
  size_t position_ = 0;
};

}  // namespace nanoflow
