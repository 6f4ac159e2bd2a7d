// Any line of a data set: a body that is an object, or an error with a message.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "api/dataset.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  const nanoflow::DatasetItem item = nanoflow::parse_dataset_line(7, line);
  if (item.index != 7) __builtin_trap();
  if (item.body.has_value() ? !item.body->is_object() : item.body.error().message.empty())
    __builtin_trap();
  return 0;
}
