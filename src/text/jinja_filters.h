// The two halves of the filter table: text and numbers, and sequences.
#pragma once

#include <string_view>

#include "text/jinja_call.h"

namespace nanoflow::jinja {

struct NamedFilter {
  std::string_view name;
  FilterFn filter;
};

/// The filter of that name in jinja_filters_sequence.cc, or nullptr.
FilterFn find_sequence_filter(std::string_view name);

}  // namespace nanoflow::jinja
