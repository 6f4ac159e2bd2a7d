// How sequences become the rows of a StepBatch.
#pragma once

#include <cstdint>

#include "engine/sequence.h"
#include "engine/step_batch.h"
#include "kv/page_pool.h"

namespace nanoflow {

/// Which of the appended rows are sampled, in the order of the batch's sample rows.
struct AppendedSamples {
  int64_t num_targets = 0;     ///< prompt tokens to score; they come first
  bool chooses_token = false;  ///< then the next token is chosen
};

/// Appends the sequence's next `num_rows` rows and what they sample. Its pages must hold them
/// (NANO_CHECKed). Does not change the sequence.
AppendedSamples append_rows(StepBatch& batch, const Sequence& sequence, int64_t num_rows,
                            const PagePool& pool);

}  // namespace nanoflow
