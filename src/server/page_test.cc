// The page's files are there, and load nothing from elsewhere.
#include "server/page.h"

#include <algorithm>
#include <regex>
#include <string>

#include <gtest/gtest.h>

namespace nanoflow {
namespace {

std::string policy_of(const HttpResponse& response) {
  const auto found =
      std::find_if(response.headers.begin(), response.headers.end(),
                   [](const HttpHeader& h) { return h.name == "Content-Security-Policy"; });
  return found == response.headers.end() ? "" : found->value;
}

TEST(Page, EveryFileThatItNamesIsServedUnderAStrictPolicy) {
  const HttpResponse index = page_file("/");
  EXPECT_EQ(index.content_type, "text/html; charset=utf-8");
  const std::regex source(R"re((?:src|rel="stylesheet" href)="([^"]+)")re");
  int files = 0;
  for (std::sregex_iterator it(index.body.begin(), index.body.end(), source), end; it != end;
       ++it, ++files) {
    const HttpResponse file = page_file("/" + (*it)[1].str());
    EXPECT_EQ(file.status, 200) << (*it)[1];
    EXPECT_FALSE(file.body.empty());
    EXPECT_NE(policy_of(file).find("default-src 'none'"), std::string::npos);
  }
  EXPECT_EQ(files, 3);
  EXPECT_EQ(page_file("/other").status, 404);
}

TEST(Page, NeverMakesMarkupOfText) {
  for (const char* path : {"/page.js", "/dashboard.js"}) {
    const std::string body = page_file(path).body;
    for (const char* way :
         {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("})
      EXPECT_EQ(body.find(way), std::string::npos) << path << ": " << way;
  }
}

TEST(Page, ReachesNoOtherHost) {
  for (const char* path : {"/", "/page.css", "/page.js", "/dashboard.js"}) {
    const std::string body = page_file(path).body;
    const std::regex url(R"(["'(]https?://(?!www\.w3\.org/2000/svg))");
    EXPECT_FALSE(std::regex_search(body, url)) << path;
  }
}

}  // namespace
}  // namespace nanoflow
