// Where the steps' time went, as reports say it: shares by kind, and rates beside their ceilings.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "app/ceilings.h"
#include "base/json.h"
#include "ops/busy_times.h"

namespace nanoflow {

/// Shares of the time of steps and of what lies between them: every kind, and gaps, in which the
/// device ran no op, inside and between steps. They add up to 1, or to more where lanes ran ops at
/// the same time ("overlap"). Null where no step's ops were timed; single rates are null where
/// nothing of the kind ran.
Json step_times_json(const BusySnapshot& busy, const Ceilings& ceilings);

/// The same as (name, text) for people.
std::vector<std::pair<std::string, std::string>> step_times_lines(const BusySnapshot& busy,
                                                                  const Ceilings& ceilings);

}  // namespace nanoflow
