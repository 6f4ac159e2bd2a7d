#include "ops/backend.h"

namespace nanoflow {

OwnedWeight Backend::load_weight(const WeightShape& shape, const WeightReader& read) {
  const Buffer host = allocate_host(shape.rows * shape.cols * dtype_size(shape.dtype));
  const TensorView whole = host.view(shape.dtype, {shape.rows, shape.cols});
  read(0, whole);
  return prepare_weight(whole, shape.use, shape.experts);
}

}  // namespace nanoflow
