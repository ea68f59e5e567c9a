#include "tool/creating.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "tool/terminal.h"

namespace cofre::tool {

namespace {

// A comma inside a value is doubled: one alone at an end has nothing beside it.
void check_list(const std::string& list) {
  const size_t last = list.find_last_not_of(',');
  const size_t trailing = last == std::string::npos ? list.size() : list.size() - last - 1;
  if (list.empty() || list.front() == ',' || trailing % 2 != 0)
    fail(ErrorKind::kInvalidArgument, "Invalid option list: '{}'", list);
}

}  // namespace

image::Options merge_options(const std::vector<std::string>& lists) {
  for (const std::string& list : lists) check_list(list);
  image::Options options;
  for (const std::string& list : lists) options.merge(image::Options::parse_list(list));
  return options;
}

bool print_options_help(const std::vector<std::string>& lists, const std::string& format, bool named) {
  if (std::none_of(lists.begin(), lists.end(),
                   [](const std::string& list) { return image::asks_for_help(list); }))
    return false;
  fmt::print("{}", image::create_options_help(image::parse_format(format), named));
  return true;
}

void note_legacy_encryption(const Session& session, const image::CreatePlan& plan) {
  if (!plan.settings.legacy_encryption) return;
  tell(
      fmt::format("{}: note: encryption=on means the legacy format 'aes', which derives no key from the "
                  "passphrase and uses "
                  "only its first 16 bytes. Use -o encrypt.format=luks for new images\n",
                  session.program));
}

}  // namespace cofre::tool
