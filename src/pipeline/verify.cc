#include "pipeline/verify.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "pipeline/byte_map.h"
#include "pipeline/happens_before.h"

namespace nanoflow {
namespace {

constexpr size_t kMaxProblems = 20;

constexpr int64_t kArena = -1;

/// One step's use of one place: bytes of the arena, or rows of an external symbol or cache.
struct Use {
  int64_t place = 0;
  int64_t begin = 0;
  int64_t end = 0;
  bool reads = false;
  bool writes = false;
  SymbolId symbol = -1;  // -1: a workspace
  Phase phase = Phase::kAny;
  size_t step = 0;
};

bool different_phases(Phase a, Phase b) {
  return a != b && a != Phase::kAny && b != Phase::kAny;
}

/// Of one token.
int64_t row_bytes(const Symbol& symbol) {
  return symbol.rows_per_token * symbol.cols * dtype_size(symbol.dtype);
}

class Verifier {
 public:
  Verifier(const Plan& plan, const OpGraph& graph, int num_sms)
      : plan_(plan), graph_(graph), num_sms_(num_sms) {}

  std::vector<std::string> run() {
    if (!check_steps()) return std::move(problems_);
    check_partitions();
    check_placement();
    check_values();
    const HappensBefore before(plan_);
    check_conflicts(before);
    check_network_order(before);
    check_budgets();
    return std::move(problems_);
  }

 private:
  template <typename... Args>
  void problem(fmt::format_string<Args...> format, Args&&... args) {
    if (problems_.size() < kMaxProblems)
      problems_.push_back(plan_.name + ": " + fmt::format(format, std::forward<Args>(args)...));
  }
  [[nodiscard]] const OpNode& node(const Step& step) const {
    return graph_.nodes[static_cast<size_t>(step.op)];
  }
  [[nodiscard]] std::string name(size_t index) const {
    const Step& step = plan_.steps[index];
    return fmt::format("step {} ({}, layer {}, rows [{}, {}))", index, node(step).name, step.layer,
                       step.rows.begin, step.rows.end);
  }
  /// Position in the sequential execution that defines the result.
  [[nodiscard]] std::pair<int, OpId> meaning(const Step& step) const {
    const Section section = node(step).section;
    const int epoch = section == Section::kPrologue ? -1
                      : section == Section::kLayer  ? step.layer
                                                    : graph_.num_layers;
    return {epoch, step.op};
  }

  bool check_steps();
  void check_partitions();
  void check_placement();
  void check_values();
  void check_conflicts(const HappensBefore& before);
  void check_pair(const Use& a, const Use& b, const HappensBefore& before);
  void check_network_order(const HappensBefore& before);
  void check_budgets();
  [[nodiscard]] std::vector<Use> uses_of(size_t index) const;

  const Plan& plan_;
  const OpGraph& graph_;
  const int num_sms_;
  std::vector<std::string> problems_;
};

bool Verifier::check_steps() {
  if (plan_.num_lanes < 1) problem("{} lanes", plan_.num_lanes);
  for (size_t i = 0; i < plan_.steps.size(); ++i) {
    const Step& step = plan_.steps[i];
    if (step.op < 0 || step.op >= static_cast<OpId>(graph_.nodes.size())) {
      problem("step {} has no op", i);
      continue;
    }
    const bool in_layer = node(step).section == Section::kLayer;
    if (in_layer ? step.layer < 0 || step.layer >= graph_.num_layers : step.layer != -1)
      problem("{}: no such layer", name(i));
    if (step.rows.begin < 0 || step.rows.begin >= step.rows.end || step.rows.end > plan_.rows)
      problem("{}: rows outside [0, {})", name(i), plan_.rows);
    if (step.lane < 0 || step.lane >= plan_.num_lanes)
      problem("{}: no lane {}", name(i), step.lane);
    for (const StepId wait : step.waits)
      if (wait < 0 || wait >= static_cast<StepId>(i)) {
        problem("{}: waits for step {}", name(i), wait);
      } else if (!plan_.steps[static_cast<size_t>(wait)].signals) {
        problem("{}: waits for step {}, which does not signal", name(i), wait);
      }
  }
  if (plan_.symbol_offset.size() != graph_.symbols.size()) problem("symbols are not placed");
  return problems_.empty();
}

void Verifier::check_partitions() {
  std::map<std::pair<int, OpId>, std::vector<RowRange>> ranges;
  for (const Step& step : plan_.steps) ranges[meaning(step)].push_back(step.rows);
  const auto expect = [&](int epoch, OpId op) {
    const OpNode& op_node = graph_.nodes[static_cast<size_t>(op)];
    std::vector<RowRange>& cuts = ranges[{epoch, op}];
    std::sort(cuts.begin(), cuts.end(),
              [](const RowRange& a, const RowRange& b) { return a.begin < b.begin; });
    int64_t row = 0;
    for (const RowRange& cut : cuts) {
      if (cut.begin != row)
        problem("{} of layer {}: {} at row {}", op_node.name, epoch,
                cut.begin > row ? "a hole" : "an overlap", std::min(row, cut.begin));
      row = cut.end;
    }
    if (row != plan_.rows)
      problem("{} of layer {}: ends at row {} of {}", op_node.name, epoch, row, plan_.rows);
    if (op_node.split == SplitBy::kNone && cuts.size() > 1)
      problem("{} of layer {}: is cut but may not be", op_node.name, epoch);
  };
  for (size_t op = 0; op < graph_.nodes.size(); ++op) {
    const Section section = graph_.nodes[op].section;
    const auto id = static_cast<OpId>(op);
    if (section == Section::kPrologue) expect(-1, id);
    if (section == Section::kEpilogue) expect(graph_.num_layers, id);
    for (int layer = 0; section == Section::kLayer && layer < graph_.num_layers; ++layer)
      expect(layer, id);
  }
  for (const auto& [key, cuts] : ranges) {
    const int group = graph_.nodes[static_cast<size_t>(key.second)].align_group;
    if (group < 0) continue;
    for (const auto& [other, other_cuts] : ranges) {
      if (other.first == key.first &&
          graph_.nodes[static_cast<size_t>(other.second)].align_group == group &&
          other_cuts != cuts)
        problem("{} and {} of layer {} are cut differently",
                graph_.nodes[static_cast<size_t>(key.second)].name,
                graph_.nodes[static_cast<size_t>(other.second)].name, key.first);
    }
  }
}

void Verifier::check_placement() {
  const auto inside = [&](int64_t begin, int64_t bytes) {
    return begin >= 0 && begin + bytes <= plan_.arena_bytes;
  };
  for (size_t s = 0; s < graph_.symbols.size(); ++s) {
    const Symbol& symbol = graph_.symbols[s];
    if (symbol.space == SymbolSpace::kScratch &&
        !inside(plan_.symbol_offset[s], plan_.rows * row_bytes(symbol)))
      problem("{} lies outside the arena", symbol.name);
  }
  for (size_t i = 0; i < plan_.steps.size(); ++i) {
    const Step& step = plan_.steps[i];
    if (step.workspace_bytes > 0 && !inside(step.workspace_offset, step.workspace_bytes))
      problem("{}: its workspace lies outside the arena", name(i));
  }
}

/// Replays the graph's order on the plan's bytes: what a step reads must be a value of that symbol,
/// neither unwritten nor overwritten by another symbol or workspace that shares the bytes. That
/// running steps side by side changes nothing is check_conflicts()'s part. Decode and prefill rows
/// are known only at run time, so each byte is followed once as either.
void Verifier::check_values() {
  std::vector<size_t> order(plan_.steps.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return meaning(plan_.steps[a]) < meaning(plan_.steps[b]);
  });
  std::map<Phase, ByteMap> held = {{Phase::kDecode, {}}, {Phase::kPrefill, {}}};
  for (const size_t i : order) {
    const std::vector<Use> uses = uses_of(i);
    for (const Use& use : uses) {
      if (use.place != kArena || !use.reads) continue;
      for (const auto& [phase, bytes] : held)
        if (!different_phases(phase, use.phase) && !bytes.holds(use.begin, use.end, use.symbol))
          problem("{} reads {} where nothing has written it, or something else has", name(i),
                  graph_.symbols[static_cast<size_t>(use.symbol)].name);
    }
    for (const Use& use : uses) {
      if (use.place != kArena || !use.writes) continue;
      for (auto& [phase, bytes] : held)
        if (!different_phases(phase, use.phase)) bytes.write(use.begin, use.end, use.symbol);
    }
  }
}

std::vector<Use> Verifier::uses_of(size_t index) const {
  const Step& step = plan_.steps[index];
  std::vector<Use> uses;
  for (const Operand& operand : node(step).operands) {
    const Symbol& symbol = graph_.symbols[static_cast<size_t>(operand.symbol)];
    const int64_t first = operand.rows == Rows::kSame ? step.rows.begin : 0;
    const int64_t last = operand.rows == Rows::kAll ? plan_.rows : step.rows.end;
    Use use{.place = operand.symbol,
            .begin = first,
            .end = last,
            .reads = operand.access != Access::kWrite,
            .writes = operand.access != Access::kRead,
            .symbol = operand.symbol,
            .phase = operand.phase,
            .step = index};
    if (symbol.space == SymbolSpace::kScratch) {
      const int64_t offset = plan_.symbol_offset[static_cast<size_t>(operand.symbol)];
      use.place = kArena;
      use.begin = offset + first * row_bytes(symbol);
      use.end = offset + last * row_bytes(symbol);
    } else if (symbol.space == SymbolSpace::kKvCache) {
      use.place = (1 + step.layer) * static_cast<int64_t>(graph_.symbols.size()) + operand.symbol;
    }
    uses.push_back(use);
  }
  if (step.workspace_bytes > 0)
    uses.push_back({.place = kArena,
                    .begin = step.workspace_offset,
                    .end = step.workspace_offset + step.workspace_bytes,
                    .writes = true,
                    .step = index});
  return uses;
}

void Verifier::check_conflicts(const HappensBefore& before) {
  std::map<int64_t, std::vector<Use>> places;
  for (size_t i = 0; i < plan_.steps.size(); ++i)
    for (const Use& use : uses_of(i)) places[use.place].push_back(use);
  for (auto& [place, uses] : places) {
    // Sweep over begins; `open` are the uses that reach beyond the current begin.
    std::sort(uses.begin(), uses.end(),
              [](const Use& a, const Use& b) { return a.begin < b.begin; });
    std::vector<const Use*> open;
    for (const Use& use : uses) {
      std::erase_if(open, [&](const Use* other) { return other->end <= use.begin; });
      for (const Use* other : open) check_pair(*other, use, before);
      open.push_back(&use);
    }
  }
}

void Verifier::check_pair(const Use& a, const Use& b, const HappensBefore& before) {
  if (!a.writes && !b.writes) return;
  if (a.step == b.step) {
    // No op has declared that it works in place, other than by naming one symbol.
    if (a.symbol != b.symbol) problem("{} uses the same bytes twice", name(a.step));
    return;
  }
  // Other rows at run time; rows of one symbol are disjoint bytes, those of two need not be.
  if (a.symbol == b.symbol && different_phases(a.phase, b.phase)) return;
  // Workspaces hold nothing between steps: any order is right.
  const bool workspaces = a.symbol < 0 && b.symbol < 0;
  const auto meaning_a = meaning(plan_.steps[a.step]);
  const auto meaning_b = meaning(plan_.steps[b.step]);
  if (!workspaces && meaning_a == meaning_b) {
    problem("{} and {} are parts of one op but touch the same memory", name(a.step), name(b.step));
    return;
  }
  const bool a_first = workspaces ? a.step < b.step : meaning_a < meaning_b;
  const size_t first = a_first ? a.step : b.step;
  const size_t second = a_first ? b.step : a.step;
  if (!before(first, second))
    problem("{} may run before {} has finished, but depends on it", name(second), name(first));
}

void Verifier::check_budgets() {
  std::vector<int> hard(static_cast<size_t>(plan_.num_lanes), 0);
  for (const Step& step : plan_.steps) {
    int& most = hard[static_cast<size_t>(step.lane)];
    if (step.sm.kind == SmBudget::Kind::kHard) most = std::max(most, step.sm.sms);
  }
  int total = 0;
  for (const int sms : hard) total += sms;
  if (total > num_sms_) problem("hard budgets of {} SMs on a device of {}", total, num_sms_);
}

void Verifier::check_network_order(const HappensBefore& before) {
  size_t previous = plan_.steps.size();
  for (size_t i = 0; i < plan_.steps.size(); ++i) {
    if (node(plan_.steps[i]).bound != Resource::kNetwork) continue;
    if (previous != plan_.steps.size() && !before(previous, i))
      problem("{} and {} may meet in different orders on different ranks", name(previous), name(i));
    previous = i;
  }
}

}  // namespace

std::vector<std::string> verify(const Plan& plan, const OpGraph& graph, int num_sms) {
  return Verifier(plan, graph, num_sms).run();
}

}  // namespace nanoflow
