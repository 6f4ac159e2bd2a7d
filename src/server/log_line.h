// The line that a serving process logs every few seconds.
#pragma once

#include <string>

#include "engine/engine.h"

namespace nanoflow {

/// What happened between two snapshots that are `seconds` apart, in one line; "" when nothing ran
/// or waited in between.
std::string activity_line(const EngineStats& before, const EngineStats& now, double seconds);

}  // namespace nanoflow
