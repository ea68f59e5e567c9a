// The pieces of the page, as bytes of files: made from page.html, page.css, page.js and Chart.js when Cofre
// is built (cmake/CofreEmbed.cmake).
#pragma once

#include <string_view>

namespace cofre::tool {

extern const std::string_view kPageTemplate;
extern const std::string_view kPageStyle;
extern const std::string_view kPageScript;
extern const std::string_view kChartLibrary;  // MIT licence, in its first lines

}  // namespace cofre::tool
