// Text from models and data sets made safe to print: control characters could break a line or drive
// the terminal.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace nanoflow {

/// One line: line breaks and all other control characters (C0, DEL, C1, U+2028 and U+2029, the
/// direction overrides) as \n, \t, \u001b, ...; a backslash as two; bytes that are no UTF-8 as
/// \xff.
std::string one_line(std::string_view text);

/// The same, but line breaks and tabs stay and backslashes are not doubled: what a terminal may be
/// given.
std::string terminal_text(std::string_view text);

/// The first `max_characters` code points of `text`, with "..." behind when some were cut off.
std::string shortened(std::string_view text, size_t max_characters);

/// Code points in UTF-8 `text`.
size_t count_characters(std::string_view text);

}  // namespace nanoflow
