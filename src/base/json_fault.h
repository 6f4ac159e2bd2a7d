// What is wrong with a text that is no JSON document, in words that a person can act on, and what
// can be saved of it. Slower than parse_json, and for what parse_json has refused.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace nanoflow {

/// The first fault of `text` with its place: "rope_scaling.factor: NaN is no JSON number (line 3)".
/// One line, of bounded length, valid UTF-8. nullopt where it finds none: text that is not UTF-8,
/// or a valid document.
[[nodiscard]] std::optional<std::string> find_json_fault(std::string_view text);

/// The value of the member `key` of the outermost object, if it is a string or an integer (then its
/// digits), although the text may be faulty elsewhere: brackets and quotes before it must match.
/// The first of several. nullopt: not there, or faulty itself.
[[nodiscard]] std::optional<std::string> salvage_json_member(std::string_view text,
                                                             std::string_view key);

}  // namespace nanoflow
