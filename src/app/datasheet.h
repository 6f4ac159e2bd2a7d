// What vendors promise: the rates that a model FLOPs utilisation (MFU) is a share of.
#pragma once

#include <optional>
#include <string_view>

#include "tensor/dtype.h"

namespace nanoflow {

/// Dense matrix FLOP/s of the device of this name (DeviceInfo::name) in `dtype`, by its datasheet;
/// nullopt where it is not known here: other devices, all CPUs, float32.
std::optional<double> datasheet_flops(std::string_view device_name, DType dtype);

}  // namespace nanoflow
