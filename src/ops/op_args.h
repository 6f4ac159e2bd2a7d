// One plain struct per operation: everything a backend needs to compute it once.
// OpArgs is their variant, so a backend that misses one does not compile.
// Dims: T rows (tokens of the dense batch) of this nano-op, S sequences, H hidden_size, D head_dim,
// Hq/Hkv query/KV heads of this rank, I intermediate size of this rank, E experts, K experts per
// token, N sampled rows, V vocabulary rows of this rank. "act" is the activation dtype (float32,
// bfloat16, float16).
#pragma once

#include <cstdint>
#include <string_view>
#include <variant>

#include "tensor/tensor_view.h"

namespace nanoflow {

/// Rows [begin, end) of the dense batch.
struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;
  [[nodiscard]] int64_t size() const { return end - begin; }
  [[nodiscard]] bool overlaps(const RowRange& o) const { return begin < o.end && o.begin < end; }
  bool operator==(const RowRange&) const = default;
};

/// A weight matrix [n, k] (out = a @ w^T), or `experts` of them, in the layout its backend chose.
/// Made by Backend::prepare_weight; only the same backend may look inside `data`.
struct PackedWeight {
  TensorView data;      ///< the bytes; 1-D or row-major [n, k] unless `layout` says otherwise
  int64_t n = 0;        ///< output features
  int64_t k = 0;        ///< input features
  int64_t experts = 1;  ///< stacked matrices (mixture of experts)
  int layout = 0;       ///< backend-private tag; 0 is row-major [experts * n, k]
  TensorView scale;     ///< per-output-row float32 scales of quantised weights, else empty
  const void* handle = nullptr;  ///< backend-private (for example a library's packed memory object)
};

/// How the pages of one layer's KV cache are addressed, in elements from `k` and `v`:
/// element (page, slot, head, d) is at page * page_stride + slot * slot_stride + head * head_stride
/// + d.
struct KvCacheView {
  void* k = nullptr;
  void* v = nullptr;
  DType dtype = DType::kBF16;
  int64_t num_pages = 0;
  int64_t page_size = 0;  ///< tokens per page
  int64_t page_stride = 0;
  int64_t slot_stride = 0;
  int64_t head_stride = 0;
};

/// Counts of one step; they live in device memory, since a captured plan serves many steps.
struct StepHeader {
  int32_t num_rows = 0;  ///< live rows; rows behind them up to the bucket are padding
  int32_t num_decode_rows =
      0;  ///< rows [0, num_decode_rows) are decodes, the others prefill chunks
  int32_t num_seqs = 0;
  int32_t num_samples = 0;  ///< live rows of the sample graph
};

/// The step's arrays on the device, for the whole batch. Names as in the field's paged attention
/// APIs.
struct StepInputs {
  const StepHeader* header = nullptr;
  TensorView token_ids;  ///< [T] int32; id >= 0, or ~slot: take last_token[slot]
  TensorView positions;  ///< [T] int32, position of the row's token in its sequence
  TensorView row_seq;    ///< [T] int32, index of the row's sequence in this step
  TensorView kv_slots;   ///< [T] int32, page * page_size + offset where its K and V go; -1: nowhere
  TensorView q_indptr;   ///< [S + 1] int32, first row of each sequence
  TensorView kv_page_indptr;    ///< [S + 1] int32, into kv_page_indices
  TensorView kv_page_indices;   ///< [total pages] int32
  TensorView kv_last_page_len;  ///< [S] int32, tokens in the last page after this step's appends
  TensorView last_token;        ///< [max sequences] int32, last sampled token of each sequence slot
  TensorView sample_rows;       ///< [N] int32, the batch rows whose logits are wanted
  TensorView sampling;          ///< [N, sizeof(SamplingRow)] uint8
  TensorView history;      ///< [total] int32 tokens that penalties look at (prompt, then output)
  TensorView bias_ids;     ///< [total] int32 logit_bias token ids
  TensorView bias_values;  ///< [total] float32
  TensorView
      masks;  ///< [constrained rows, ceil(V / 32)] int32: token i is bit i % 32 of word i / 32
};

/// Which rows of its range an attention op computes (decodes and prefill chunks use different
/// kernels).
enum class Phase : uint8_t { kAny, kDecode, kPrefill };

/// out[t] = table[id[t]], where a negative id ~slot stands for last_token[slot].
struct EmbedArgs {
  TensorView out;         ///< [T, H] act
  TensorView table;       ///< [V, H] act
  TensorView token_ids;   ///< [T] int32
  TensorView last_token;  ///< [max sequences] int32
};

/// out[t] = x[t] * rsqrt(mean(x[t]^2) + eps) * w, sum in float32 (Zhang & Sennrich 2019, eq. 4).
struct RmsNormArgs {
  TensorView out;     ///< [T, H] act, may alias x
  TensorView x;       ///< [T, H] act
  TensorView weight;  ///< [H] act
  float eps = 0;
};

/// residual[t] = replace ? delta[t] : residual[t] + delta[t] (rounded to act), then RmsNorm of it.
struct AddRmsNormArgs {
  TensorView out;       ///< [T, H] act
  TensorView residual;  ///< [T, H] act, read and written
  TensorView delta;     ///< [T, H] act
  TensorView weight;    ///< [H] act
  float eps = 0;
  bool replace = false;  ///< the first layer starts the residual stream
};

/// out[t] = a[t] @ w^T (+ bias), float32 accumulation.
struct GemmArgs {
  TensorView out;  ///< [T, n] act or float32
  TensorView a;    ///< [T, k] act
  PackedWeight weight;
  TensorView bias;  ///< [n] act, or empty
};

/// Per row: optional RMS norm of each q and k head (Qwen3), rotary embedding of q and k in place
/// (Su et al. 2021, eq. 34, in the half-split form of the published checkpoints), then k and v are
/// written to their cache slots. Rows with slot -1 write nothing.
struct RopeAppendArgs {
  TensorView qkv;  ///< [T, (Hq + 2 Hkv) * D] act: q heads, k heads, v heads
  int64_t num_q_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  TensorView positions;  ///< [T] int32
  TensorView kv_slots;   ///< [T] int32
  TensorView cos_sin;    ///< [max positions, D] float32: D/2 cosines, then D/2 sines
  TensorView q_norm;     ///< [D] act, or empty
  TensorView k_norm;     ///< [D] act, or empty
  float norm_eps = 0;
  KvCacheView cache;
};

/// Causal attention of the range's rows over their sequences' paged K and V (Kwon et al. 2023),
/// softmax in float32: row t at position p attends to positions (p - window, p] (window 0: [0, p]).
/// Grouped queries. Rows of the other phase and padding rows are left untouched.
struct PagedAttentionArgs {
  TensorView out;  ///< [T, Hq * D] act
  TensorView q;    ///< [T, Hq * D] act (a column slice of qkv)
  int64_t num_q_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  KvCacheView cache;
  StepInputs step;  ///< whole batch; q and out cover its rows `rows`
  RowRange rows;
  Phase phase = Phase::kAny;
  float scale = 0;     ///< usually 1 / sqrt(D)
  int64_t window = 0;  ///< sliding window in tokens, 0 for none
};

/// out[t, i] = silu(gate[t, i]) * up[t, i], silu(x) = x / (1 + exp(-x)) (Shazeer 2020), in float32.
struct SiluMulArgs {
  TensorView out;      ///< [T, I] act
  TensorView gate_up;  ///< [T, 2 I] act: gate columns, then up columns
};

/// Top-K experts per row: softmax over all E logits, keep the K largest (ties: lower index first),
/// renormalise them to sum 1 if asked (Jiang et al. 2024, Mixtral, section 2.1).
struct MoeRouteArgs {
  TensorView expert_ids;      ///< [T, K] int32
  TensorView expert_weights;  ///< [T, K] float32
  TensorView logits;          ///< [T, E] float32
  bool renormalize = true;
};

/// Sorts the range's T * K (row, choice) pairs by expert, stably: order[i] = row * K + choice, with
/// row counted from the range's start. offsets[e] = first i of expert e.
struct MoeSortArgs {
  TensorView order;       ///< [T * K] int32
  TensorView offsets;     ///< [E + 1] int32
  TensorView expert_ids;  ///< [T, K] int32
};

/// out[i] = a_row(i) @ w[expert(i)]^T for sorted pairs i; a_row(i) = a[order[i] / K] if gather,
/// else a[i].
struct GroupedGemmArgs {
  TensorView out;       ///< [T * K, n] act
  TensorView a;         ///< [T, k] act if gather, else [T * K, k]
  PackedWeight weight;  ///< experts = E
  TensorView order;     ///< [T * K] int32
  TensorView offsets;   ///< [E + 1] int32
  int64_t experts_per_token = 0;
  bool gather = false;
};

/// out[t] = sum over choices c of expert_weights[t, c] * x[position of pair (t, c) in order], in
/// float32.
struct MoeCombineArgs {
  TensorView out;             ///< [T, H] act
  TensorView x;               ///< [T * K, H] act, sorted by expert
  TensorView order;           ///< [T * K] int32
  TensorView expert_weights;  ///< [T, K] float32
};

/// out[i] = x[index[i]].
struct GatherRowsArgs {
  TensorView out;    ///< [N, H] act
  TensorView x;      ///< [rows, H] act
  TensorView index;  ///< [N] int32
};

/// x = sum of x over all ranks, added in rank order in float32, rounded once; every rank gets the
/// same bits.
struct AllReduceArgs {
  TensorView x;  ///< [T, n] act or float32, in place
};

/// out[t] = concatenation over ranks, in rank order, of x[t].
struct AllGatherArgs {
  TensorView out;  ///< [T, n * tp_size]
  TensorView x;    ///< [T, n]
};

/// How one row is sampled; an array of these travels with each step. Plain bytes, no pointers.
struct SamplingRow {
  float temperature = 0;  ///< 0: greedy
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;  ///< over prompt and output (Keskar et al. 2019)
  float presence_penalty = 0;    ///< over output
  float frequency_penalty = 0;   ///< over output
  int32_t top_k = 0;             ///< 0: all
  int32_t num_logprobs = -1;     ///< top logprobs wanted (0: the chosen token's only), -1: none
  uint64_t seed = 0;     ///< noise is keyed on (seed, position, token): the same in any batch
  int32_t position = 0;  ///< position of the token that is being chosen
  int32_t target = -1;   ///< >= 0: no sampling, report this token's logprob (prompt logprobs, echo)
  int32_t slot = -1;     ///< last_token[slot] = chosen token; -1, or a target: do not store
  int32_t pending_slot = -1;  ///< >= 0: last_token[pending_slot] also belongs to the output history
  int32_t history_begin = 0;  ///< prompt tokens are history[begin, output_begin)
  int32_t history_output_begin = 0;
  int32_t history_end = 0;  ///< output tokens are history[output_begin, end)
  int32_t bias_begin = 0;   ///< logit_bias entries [begin, end)
  int32_t bias_end = 0;
  /// bias entries [forbid_eos_begin, bias_begin) are set to -infinity (min_tokens); equal to
  /// bias_begin when there are none.
  int32_t forbid_eos_begin = 0;
  int32_t mask =
      -1;  ///< >= 0: row of masks; tokens whose bit is 0 are set to -infinity, last of all
};
static_assert(sizeof(SamplingRow) % 8 == 0);

/// Most entries of top_logprobs per row (OpenAI's limit).
inline constexpr int64_t kMaxTopLogprobs = 20;

/// Picks a token per row: logit bias, penalties, mask, then temperature, top-k, top-p, min-p, and
/// argmax of scores + Gumbel noise keyed on (seed, position, token) (ops/sampling_noise.h).
/// Candidates are ordered by falling score, equal scores by rising id: top-k keeps the first k of
/// them, top-p the shortest prefix whose probability (renormalised over the top-k) reaches top_p,
/// min-p those of at least min_p times the best one's probability; the first is always kept.
/// Temperature 0 picks the first. Logprobs and ranks are those of the unmodified logits
/// (log-softmax), as OpenAI's and vLLM's are. A NaN logit counts as -infinity. A row that wants no
/// logprobs (num_logprobs -1, no target) gets logprob 0, rank 0 and empty top entries.
struct SampleArgs {
  TensorView ids;       ///< [N] int32
  TensorView logprobs;  ///< [N] float32, chosen (or target) token's
  TensorView ranks;     ///< [N] int32, 0-based rank of that token (by falling logit, rising id)
  TensorView top_ids;   ///< [N, kMaxTopLogprobs] int32, by falling logprob; -1 behind the wanted
  TensorView top_logprobs;  ///< [N, kMaxTopLogprobs] float32; -infinity behind the wanted
  TensorView logits;        ///< [N, V] float32, may be overwritten
  StepInputs step;
  RowRange rows;  ///< rows of the sample graph that the views cover
};

using OpArgs =
    std::variant<EmbedArgs, RmsNormArgs, AddRmsNormArgs, GemmArgs, RopeAppendArgs,
                 PagedAttentionArgs, SiluMulArgs, MoeRouteArgs, MoeSortArgs, GroupedGemmArgs,
                 MoeCombineArgs, GatherRowsArgs, AllReduceArgs, AllGatherArgs, SampleArgs>;

/// What limits an op when it runs alone.
enum class Resource : uint8_t { kCompute, kMemory, kNetwork };

/// The resource that bounds a call, by its kind and phase: products and prefill attention compute,
/// collectives the network, everything else memory. (A graph's OpNode::bound says the same of its
/// op.)
Resource op_resource(const OpArgs& args);

/// "gemm", "paged_attention", ...: for traces, profiles and messages.
std::string_view op_kind_name(const OpArgs& args);

/// NANO_CHECKs that shapes, dtypes and strides of `args` agree with the comments above.
void check_shapes(const OpArgs& args);

/// Work of one call, for rooflines, lane choice and reports.
struct OpCost {
  double flops = 0;          ///< multiply-adds count two
  double memory_bytes = 0;   ///< each input read once, each output written once
  double network_bytes = 0;  ///< bytes this rank sends
};

/// Cost for full shapes; attention counts `kv_tokens` positions attended in total over its rows.
OpCost op_cost(const OpArgs& args, int64_t kv_tokens, int tp_size);

}  // namespace nanoflow
