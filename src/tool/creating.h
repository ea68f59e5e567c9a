// What `create` and `convert` share.
#pragma once

#include <string>
#include <vector>

#include "image/create.h"
#include "tool/session.h"

namespace cofre::tool {

// All -o lists together; later values win. Throws Error.
image::Options merge_options(const std::vector<std::string>& lists);

// Answers -o help: prints the format's options, and those of the file if one is `named` already, and gives
// true. Throws Error for an unknown format.
bool print_options_help(const std::vector<std::string>& lists, const std::string& format, bool named);

// Says on standard error that encryption=on means the legacy format.
void note_legacy_encryption(const Session& session, const image::CreatePlan& plan);

}  // namespace cofre::tool
