// The page at "/" and the files that it loads: embedded in the program, nothing from elsewhere.
#pragma once

#include <string_view>

#include "server/http.h"

namespace nanoflow {

/// The file behind `path` ("/", "/page.css", "/page.js", "/dashboard.js"), with a policy that lets
/// the page load and reach this server alone. 404 for any other path.
HttpResponse page_file(std::string_view path);

}  // namespace nanoflow
