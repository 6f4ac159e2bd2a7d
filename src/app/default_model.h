// The model that is served when nobody names one.
#pragma once

#include <string>

namespace nanoflow {

/// SmolLM2-135M-Instruct: the file that ./setup.sh has fetched where this program was built, else
/// its hub id, which is downloaded when it is first served.
std::string default_model();

}  // namespace nanoflow
