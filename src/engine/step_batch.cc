#include "engine/step_batch.h"

namespace nanoflow {

void StepBatch::clear() {
  header = {};
  for (auto* array :
       {&token_ids, &positions, &row_seq, &kv_slots, &q_indptr, &kv_page_indptr, &kv_page_indices,
        &kv_last_page_len, &sample_rows, &history, &bias_ids, &masks}) {
    array->clear();
  }
  sampling.clear();
  bias_values.clear();
  q_indptr.push_back(0);
  kv_page_indptr.push_back(0);
}

}  // namespace nanoflow
