#include "pipeline/dependencies.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/error.h"

namespace nanoflow {
namespace {

constexpr int64_t kArenaSpace = -1;
constexpr int64_t kNetworkSpace = -2;

bool disjoint(Phase a, Phase b) {
  return a != Phase::kAny && b != Phase::kAny && a != b;
}

bool conflict(const Region& a, const Region& b) {
  return a.space == b.space && a.begin < b.end && b.begin < a.end && (a.writes || b.writes) &&
         !disjoint(a.phase, b.phase);
}

/// Whether everything that conflicts with `old` from now on also conflicts with the later `newer`.
bool supersedes(const Region& newer, const Region& old) {
  return newer.writes && newer.begin <= old.begin && newer.end >= old.end &&
         (newer.phase == Phase::kAny || newer.phase == old.phase);
}

}  // namespace

Dependencies::Dependencies(const OpGraph& graph, const Plan& plan)
    : graph_(graph), plan_(plan), last_of_lane_(static_cast<size_t>(plan.num_lanes), -1) {}

Region Dependencies::region_of(const Step& step, const Operand& operand) const {
  const Symbol& symbol = graph_.symbols[static_cast<size_t>(operand.symbol)];
  RowRange rows = step.rows;
  if (operand.rows != Rows::kSame) rows.begin = 0;
  if (operand.rows == Rows::kAll) rows.end = plan_.rows;
  Region region{.space = operand.symbol,
                .begin = rows.begin,
                .end = rows.end,
                .writes = operand.access != Access::kRead,
                .phase = operand.phase};
  if (symbol.space == SymbolSpace::kKvCache) {
    region.space += static_cast<int64_t>(graph_.symbols.size()) * (1 + step.layer);
  } else if (symbol.space == SymbolSpace::kScratch) {
    const int64_t row_bytes = symbol.rows_per_token * symbol.cols * dtype_size(symbol.dtype);
    const int64_t offset = plan_.symbol_offset[static_cast<size_t>(operand.symbol)];
    region.space = kArenaSpace;
    region.begin = offset + rows.begin * row_bytes;
    region.end = offset + rows.end * row_bytes;
  }
  return region;
}

void Dependencies::add(Step& step, StepId id, int64_t order, std::vector<Step>& earlier) {
  std::vector<Region> regions;
  for (const Operand& operand : graph_.nodes[static_cast<size_t>(step.op)].operands)
    regions.push_back(region_of(step, operand));
  if (graph_.nodes[static_cast<size_t>(step.op)].bound == Resource::kNetwork)
    regions.push_back({.space = kNetworkSpace, .begin = 0, .end = 1, .writes = true});

  // Known before any wait: the lane's previous step and all that it knew.
  const size_t lanes = last_of_lane_.size();
  const auto lane = static_cast<size_t>(step.lane);
  const StepId previous = last_of_lane_[lane];
  Clock known = previous < 0 ? Clock(lanes, -1) : finished_[static_cast<size_t>(previous)];

  const Clock wanted = latest_conflicts(step, order, regions, earlier);
  const auto needed = [&](size_t l) { return wanted[l] > known[l]; };
  // A wait that another wait implies is left out, so that each one that stays is the only reason
  // for its order.
  const auto implied = [&](size_t l) {
    for (size_t other = 0; other < lanes; ++other) {
      if (other == l || !needed(other)) continue;
      if (finished_[static_cast<size_t>(wanted[other])][l] >= wanted[l]) return true;
    }
    return false;
  };
  for (size_t l = 0; l < lanes; ++l)
    if (needed(l) && !implied(l)) step.waits.push_back(wanted[l]);
  for (const StepId wait : step.waits) {
    earlier[static_cast<size_t>(wait)].signals = true;
    const Clock& then = finished_[static_cast<size_t>(wait)];
    for (size_t l = 0; l < lanes; ++l) known[l] = std::max(known[l], then[l]);
  }
  known[lane] = id;
  finished_.push_back(std::move(known));
  last_of_lane_[lane] = id;
  remember(id, order, regions);
}

Dependencies::Clock Dependencies::latest_conflicts(const Step& step, int64_t order,
                                                   const std::vector<Region>& regions,
                                                   const std::vector<Step>& earlier) const {
  Clock latest(last_of_lane_.size(), -1);
  for (const Region& region : regions) {
    const auto found = history_.find(region.space);
    if (found == history_.end()) continue;
    for (const Touch& touch : found->second) {
      if (!conflict(region, touch.region)) continue;
      const Step& other = earlier[static_cast<size_t>(touch.step)];
      // Any order of collectives is right that is the same on every rank, and a plan is.
      if (touch.order >= order && region.space != kNetworkSpace) refuse(other, step);
      StepId& slot = latest[static_cast<size_t>(other.lane)];
      slot = std::max(slot, touch.step);
    }
  }
  return latest;
}

void Dependencies::refuse(const Step& earlier, const Step& later) const {
  const auto name = [&](const Step& step) {
    return fmt::format("{} of layer {}, rows [{}, {})",
                       graph_.nodes[static_cast<size_t>(step.op)].name, step.layer, step.rows.begin,
                       step.rows.end);
  };
  const bool parts = earlier.op == later.op && earlier.layer == later.layer;
  throw ConfigError(
      "pipeline",
      fmt::format("{}: {} {} {}{}", plan_.name, name(earlier),
                  parts ? "touches the same memory as" : "is issued before", name(later),
                  parts ? ": it may not be cut" : ", on which it depends"));
}

void Dependencies::remember(StepId id, int64_t order, const std::vector<Region>& regions) {
  for (const Region& region : regions) {
    std::vector<Touch>& touches = history_[region.space];
    // Later steps that conflict with a superseded touch conflict with this one, which is ordered
    // behind it.
    std::erase_if(touches, [&](const Touch& touch) {
      return touch.step != id && supersedes(region, touch.region);
    });
    touches.push_back({id, order, region});
  }
}

}  // namespace nanoflow
