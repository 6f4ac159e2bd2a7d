// Python's str operations on UTF-8 text: everything counts code points, never bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nanoflow::jinja {

/// Bytes of the character at byte offset `at` of valid UTF-8.
size_t char_bytes(std::string_view text, size_t at);
/// The code point at byte offset `at`; adds its bytes to `at`.
char32_t next_char(std::string_view text, size_t& at);
void append_utf8(std::string& out, char32_t c);
/// Code points of `text`.
size_t utf8_length(std::string_view text);
/// Byte offset of code point `index` (at most the length).
size_t utf8_offset(std::string_view text, size_t index);
bool is_valid_utf8(std::string_view text);

/// text.find(part, from), linear also for long parts (the library's is quadratic).
size_t find_text(std::string_view text, std::string_view part, size_t from = 0);
/// Steps to charge for a search of `part` in `text`, from either end.
size_t search_steps(std::string_view text, std::string_view part, bool from_end = false);

/// str.isspace() of one character.
bool is_space(char32_t c);

/// str.strip(chars) and one-sided forms; `chars` null means whitespace.
std::string_view strip(std::string_view text, const std::string_view* chars, bool left, bool right);
std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
/// str.title(): a letter after a non-letter is upper case.
std::string title(std::string_view text);
/// str.split(sep, maxsplit); `sep` null splits at runs of whitespace. max_split < 0: no limit.
/// `sep` must not be empty.
std::vector<std::string_view> split(std::string_view text, const std::string_view* sep,
                                    int64_t max_split);
std::vector<std::string_view> rsplit(std::string_view text, const std::string_view* sep,
                                     int64_t max_split);
std::vector<std::string_view> splitlines(std::string_view text, bool keep_ends);

/// str.isalpha(), isdigit(), isalnum(), isspace(), isupper(), islower(), isnumeric/isdecimal by
/// name; false for the empty string.
bool is_class(std::string_view text, std::string_view method);

}  // namespace nanoflow::jinja
