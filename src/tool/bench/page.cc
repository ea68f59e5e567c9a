#include "tool/bench/page.h"

#include <string_view>

#include "tool/bench/page_parts.h"

namespace cofre::tool {
namespace {

// Within <script> nothing may look like the end of it: '<' stands in strings only, where JSON can say it so.
std::string json_for_script(const nlohmann::ordered_json& json) {
  std::string text;
  for (const char c : json.dump(-1, ' ', /*ensure_ascii=*/true))
    text += c == '<' ? "\\u003c" : std::string(1, c);
  return text;
}

// `page` with `part` in place of the one `mark`.
void put(std::string& page, std::string_view mark, std::string_view part) {
  page.replace(page.find(mark), mark.size(), part);
}

}  // namespace

std::string page_html(const nlohmann::ordered_json& report) {
  std::string page(kPageTemplate);
  // The last mark first: a part may contain what looks like another mark.
  put(page, "@SCRIPT@", kPageScript);
  put(page, "@CHART_LIBRARY@", kChartLibrary);
  put(page, "@REPORT@", json_for_script(report));
  put(page, "@STYLE@", kPageStyle);
  return page;
}

}  // namespace cofre::tool
