#include "server/page.h"

#include <algorithm>
#include <array>

#include "page_files.h"
#include "server/answers.h"

namespace nanoflow {
namespace {

struct File {
  std::string_view path;
  std::string_view type;
  std::string_view bytes;
};

constexpr std::array<File, 4> kFiles = {{
    {"/", "text/html; charset=utf-8", embedded::index_html},
    {"/page.css", "text/css; charset=utf-8", embedded::page_css},
    {"/page.js", "text/javascript; charset=utf-8", embedded::page_js},
    {"/dashboard.js", "text/javascript; charset=utf-8", embedded::dashboard_js},
}};

// The page holds an API key and shows a model's words: no script but its own, no other host.
constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

}  // namespace

HttpResponse page_file(std::string_view path) {
  const auto* file = std::find_if(kFiles.begin(), kFiles.end(),
                                  [&](const File& candidate) { return candidate.path == path; });
  if (file == kFiles.end()) return error_answer(404, "there is no such file");
  return {.content_type = std::string(file->type),
          .headers = {{"Content-Security-Policy", kPolicy},
                      {"X-Content-Type-Options", "nosniff"},
                      {"Referrer-Policy", "no-referrer"},
                      {"Cache-Control", "no-cache"}},
          .body = std::string(file->bytes)};
}

}  // namespace nanoflow
