// Names and costs of ops. Shape checks live in check_shapes.cc.
#include "ops/op_args.h"

namespace nanoflow {
namespace {

template <typename... Fs>
struct Overloaded : Fs... {
  using Fs::operator()...;
};
template <typename... Fs>
Overloaded(Fs...) -> Overloaded<Fs...>;

double bytes_of(const TensorView& view) {
  return static_cast<double>(view.size_bytes());
}

double elements_of(const TensorView& view) {
  return static_cast<double>(view.rows()) * static_cast<double>(view.cols());
}

double weight_bytes(const PackedWeight& w) {
  return static_cast<double>(w.n * w.k * w.experts) *
             static_cast<double>(dtype_size(w.data.dtype())) +
         bytes_of(w.scale);
}

/// Distinct cache positions that `rows` rows read when they attend to `kv_tokens` in total. Decodes
/// share nothing. Prefill rows of one sequence of final length L attend to rows * L - rows * (rows
/// - 1) / 2 positions, which is solved for L.
double distinct_kv_tokens(const PagedAttentionArgs& a, double kv_tokens) {
  const auto rows = static_cast<double>(a.q.rows());
  if (a.phase != Phase::kPrefill || rows == 0) return kv_tokens;
  return kv_tokens / rows + (rows - 1) / 2;
}

OpCost attention_cost(const PagedAttentionArgs& a, int64_t kv_tokens) {
  const auto head_dim = static_cast<double>(a.head_dim);
  const auto attended = static_cast<double>(kv_tokens);
  const double kv_bytes_per_token = 2.0 * static_cast<double>(a.num_kv_heads) * head_dim *
                                    static_cast<double>(dtype_size(a.cache.dtype));
  return {.flops = 4.0 * static_cast<double>(a.num_q_heads) * head_dim * attended,
          .memory_bytes = distinct_kv_tokens(a, attended) * kv_bytes_per_token + bytes_of(a.q) +
                          bytes_of(a.out)};
}

OpCost rope_cost(const RopeAppendArgs& a) {
  const auto rows = static_cast<double>(a.qkv.rows());
  const auto head_dim = static_cast<double>(a.head_dim);
  const double rotated = rows * static_cast<double>(a.num_q_heads + a.num_kv_heads) * head_dim;
  const double appended = 2.0 * rows * static_cast<double>(a.num_kv_heads) * head_dim;
  const auto element = static_cast<double>(dtype_size(a.qkv.dtype()));
  return {.flops = 3.0 * rotated,
          .memory_bytes = bytes_of(a.qkv) + rotated * element + rows * head_dim * 4.0 +
                          appended * static_cast<double>(dtype_size(a.cache.dtype))};
}

}  // namespace

std::string_view op_kind_name(const OpArgs& args) {
  return std::visit(
      Overloaded{
          [](const EmbedArgs&) { return std::string_view("embed"); },
          [](const RmsNormArgs&) { return std::string_view("rms_norm"); },
          [](const AddRmsNormArgs&) { return std::string_view("add_rms_norm"); },
          [](const GemmArgs&) { return std::string_view("gemm"); },
          [](const RopeAppendArgs&) { return std::string_view("rope_append"); },
          [](const PagedAttentionArgs&) { return std::string_view("paged_attention"); },
          [](const SiluMulArgs&) { return std::string_view("silu_mul"); },
          [](const MoeRouteArgs&) { return std::string_view("moe_route"); },
          [](const MoeSortArgs&) { return std::string_view("moe_sort"); },
          [](const GroupedGemmArgs&) { return std::string_view("grouped_gemm"); },
          [](const MoeCombineArgs&) { return std::string_view("moe_combine"); },
          [](const GatherRowsArgs&) { return std::string_view("gather_rows"); },
          [](const AllReduceArgs&) { return std::string_view("all_reduce"); },
          [](const AllGatherArgs&) { return std::string_view("all_gather"); },
          [](const SampleArgs&) { return std::string_view("sample"); },
      },
      args);
}

OpCost op_cost(const OpArgs& args, int64_t kv_tokens, int tp_size) {
  const double ranks = tp_size;
  return std::visit(
      Overloaded{
          [](const EmbedArgs& a) {
            return OpCost{.memory_bytes = 2 * bytes_of(a.out) + bytes_of(a.token_ids)};
          },
          [](const RmsNormArgs& a) {
            return OpCost{.flops = 4 * elements_of(a.x),
                          .memory_bytes = bytes_of(a.x) + bytes_of(a.out) + bytes_of(a.weight)};
          },
          [](const AddRmsNormArgs& a) {
            const double reads = a.replace ? 1 : 2;
            return OpCost{.flops = (a.replace ? 4 : 5) * elements_of(a.delta),
                          .memory_bytes = (reads + 2) * bytes_of(a.delta) + bytes_of(a.weight)};
          },
          [](const GemmArgs& a) {
            return OpCost{.flops = 2 * elements_of(a.a) * static_cast<double>(a.weight.n),
                          .memory_bytes = bytes_of(a.a) + bytes_of(a.out) + bytes_of(a.bias) +
                                          weight_bytes(a.weight)};
          },
          [](const RopeAppendArgs& a) { return rope_cost(a); },
          [&](const PagedAttentionArgs& a) { return attention_cost(a, kv_tokens); },
          [](const SiluMulArgs& a) {
            return OpCost{.flops = 4 * elements_of(a.out),
                          .memory_bytes = bytes_of(a.gate_up) + bytes_of(a.out)};
          },
          [](const MoeRouteArgs& a) {
            return OpCost{.flops = 3 * elements_of(a.logits),
                          .memory_bytes = bytes_of(a.logits) + bytes_of(a.expert_ids) +
                                          bytes_of(a.expert_weights)};
          },
          [](const MoeSortArgs& a) {
            return OpCost{.memory_bytes =
                              bytes_of(a.expert_ids) + bytes_of(a.order) + bytes_of(a.offsets)};
          },
          [](const GroupedGemmArgs& a) {
            const double pairs = static_cast<double>(a.out.rows());
            return OpCost{.flops = 2 * pairs * static_cast<double>(a.weight.n) *
                                   static_cast<double>(a.weight.k),
                          .memory_bytes = bytes_of(a.a) + bytes_of(a.out) + weight_bytes(a.weight) +
                                          bytes_of(a.order)};
          },
          [](const MoeCombineArgs& a) {
            return OpCost{.flops = 2 * elements_of(a.x),
                          .memory_bytes = bytes_of(a.x) + bytes_of(a.out) + bytes_of(a.order) +
                                          bytes_of(a.expert_weights)};
          },
          [](const GatherRowsArgs& a) {
            return OpCost{.memory_bytes = 2 * bytes_of(a.out) + bytes_of(a.index)};
          },
          [&](const AllReduceArgs& a) {
            return OpCost{.flops = (ranks - 1) / ranks * elements_of(a.x),
                          .memory_bytes = 2 * bytes_of(a.x),
                          .network_bytes = 2 * (ranks - 1) / ranks * bytes_of(a.x)};
          },
          [&](const AllGatherArgs& a) {
            return OpCost{.memory_bytes = bytes_of(a.x) + bytes_of(a.out),
                          .network_bytes = (ranks - 1) * bytes_of(a.x)};
          },
          [](const SampleArgs& a) {
            return OpCost{.flops = 8 * elements_of(a.logits), .memory_bytes = bytes_of(a.logits)};
          },
      },
      args);
}

Resource op_resource(const OpArgs& args) {
  if (std::holds_alternative<GemmArgs>(args) || std::holds_alternative<GroupedGemmArgs>(args))
    return Resource::kCompute;
  if (const auto* attention = std::get_if<PagedAttentionArgs>(&args))
    return attention->phase == Phase::kDecode ? Resource::kMemory : Resource::kCompute;
  if (std::holds_alternative<AllReduceArgs>(args) || std::holds_alternative<AllGatherArgs>(args))
    return Resource::kNetwork;
  return Resource::kMemory;
}

}  // namespace nanoflow
