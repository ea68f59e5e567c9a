// The figures as one HTML page with charts that needs nothing else: neither a network nor other files.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace cofre::tool {

// Of what report_json() gives.
std::string page_html(const nlohmann::ordered_json& report);

}  // namespace cofre::tool
