#include "app/datasheet.h"

#include <array>

namespace nanoflow {
namespace {

struct Datasheet {
  std::string_view device;  ///< the beginning of its name, as the driver reports it
  double half_flops;        ///< bfloat16 and float16, dense, without sparsity
};

// NVIDIA's datasheets: H100 (2023), H200 (2024), A100 (2021).
constexpr std::array<Datasheet, 4> kDatasheets = {{{"NVIDIA H100 PCIe", 756e12},
                                                   {"NVIDIA H100 80GB HBM3", 989.4e12},
                                                   {"NVIDIA H200", 989.4e12},
                                                   {"NVIDIA A100", 312e12}}};

}  // namespace

std::optional<double> datasheet_flops(std::string_view device_name, DType dtype) {
  if (dtype != DType::kBF16 && dtype != DType::kF16) return std::nullopt;
  for (const Datasheet& sheet : kDatasheets)
    if (device_name.starts_with(sheet.device)) return sheet.half_flops;
  return std::nullopt;
}

}  // namespace nanoflow
