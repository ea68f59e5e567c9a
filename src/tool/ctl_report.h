// A server's answers, for people.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace cofre::tool {

// Throws nlohmann::json::exception for an answer that no server gives.
std::string ctl_report(const std::string& command, const nlohmann::ordered_json& result);

}  // namespace cofre::tool
