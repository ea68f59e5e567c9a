#include "image/options.h"

#include <charconv>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "image/size.h"

namespace cofre::image {
namespace {

using Json = nlohmann::json;

constexpr unsigned kMaxJsonDepth = 128;

// The next element of a list, with doubled commas made single; `rest` moves on behind the comma that ends it.
std::string take_element(std::string_view& rest) {
  std::string element;
  while (!rest.empty()) {
    const char next = rest[0];
    rest.remove_prefix(1);
    if (next == ',') {
      if (!rest.starts_with(',')) return element;
      rest.remove_prefix(1);
    }
    element += next;
  }
  return element;
}

void flatten(const Json& value, const std::string& key, unsigned depth, Options& into) {
  if (depth > kMaxJsonDepth)
    fail(ErrorKind::kLimit, "a json: name is nested more than {} levels deep", kMaxJsonDepth);
  const std::string prefix = key.empty() ? "" : key + ".";
  if (value.is_object()) {
    for (const auto& [name, child] : value.items()) flatten(child, prefix + name, depth + 1, into);
  } else if (value.is_array()) {
    for (size_t i = 0; i < value.size(); ++i) flatten(value[i], prefix + std::to_string(i), depth + 1, into);
  } else if (value.is_boolean()) {
    into.set(key, value.get<bool>() ? "on" : "off", /*bare=*/true);
  } else if (value.is_null()) {
    into.set(key, "");
  } else if (value.is_string()) {
    into.set(key, value.get<std::string>());
  } else {
    into.set(key, value.dump(), /*bare=*/true);
  }
}

std::string join(const std::set<std::string, std::less<>>& words) {
  std::string list;
  for (const std::string& word : words) list += (list.empty() ? "" : ", ") + word;
  return list;
}

}  // namespace

Options Options::parse_list(std::string_view text, std::string_view implied_key) {
  Options options;
  std::string_view rest = text;
  for (bool first = true; !rest.empty(); first = false) {
    const std::string element = take_element(rest);
    const size_t equals = element.find('=');
    if (equals == 0 || element.empty())
      fail(ErrorKind::kInvalidArgument, "the options '{}' have a value without a name", text);
    if (equals != std::string::npos) {
      options.set(element.substr(0, equals), element.substr(equals + 1));
    } else if (first && !implied_key.empty()) {
      options.set(std::string(implied_key), element);
    } else if (element.starts_with("no") && element.size() > 2) {
      options.set(element.substr(2), "off");
    } else {
      options.set(element, "on");
    }
  }
  return options;
}

Options Options::parse_json(std::string_view text) {
  const Json parsed = Json::parse(text, nullptr, false);
  if (parsed.is_discarded() || !parsed.is_object())
    fail(ErrorKind::kInvalidArgument, "'json:{}' does not hold a JSON object", text);
  Options options;
  flatten(parsed, "", 0, options);
  return options;
}

void Options::merge(const Options& later) {
  for (const auto& [key, value] : later.values_) set(key, value, later.bare_.contains(key));
}

nlohmann::ordered_json Options::described(std::string_view key) const {
  const std::string& value = values_.find(key)->second;
  if (!bare_.contains(key)) return value;
  if (value == "on" || value == "off") return value == "on";
  return nlohmann::ordered_json::parse(value);
}

bool Options::has_prefix(std::string_view prefix) const {
  const std::string dotted = std::string(prefix) + ".";
  const auto first = values_.lower_bound(dotted);
  return first != values_.end() && first->first.starts_with(dotted);
}

std::optional<std::string> Options::take(std::string_view key) {
  known_.emplace(key);
  const auto found = values_.find(key);
  if (found == values_.end()) return std::nullopt;
  std::string value = std::move(found->second);
  values_.erase(found);
  return value;
}

std::optional<bool> Options::take_bool(std::string_view key) {
  const std::optional<std::string> value = take(key);
  if (!value) return std::nullopt;
  if (*value == "on" || *value == "yes" || *value == "true" || *value == "y") return true;
  if (*value == "off" || *value == "no" || *value == "false" || *value == "n") return false;
  fail(ErrorKind::kInvalidArgument, "option '{}' is on or off, not '{}'", key, *value);
}

std::optional<uint64_t> Options::take_size(std::string_view key) {
  const std::optional<std::string> value = take(key);
  if (!value) return std::nullopt;
  return parse_size(*value, fmt::format("size for option '{}'", key));
}

std::optional<uint64_t> Options::take_number(std::string_view key) {
  const std::optional<std::string> value = take(key);
  if (!value) return std::nullopt;
  const bool hex = value->starts_with("0x");
  const char* const begin = value->data() + (hex ? 2 : 0);
  const char* const end = value->data() + value->size();
  uint64_t number = 0;
  const auto [stop, error] = std::from_chars(begin, end, number, hex ? 16 : 10);
  if (error != std::errc() || stop != end)
    fail(ErrorKind::kInvalidArgument, "option '{}' is a number, not '{}'", key, *value);
  return number;
}

Options Options::take_prefix(std::string_view prefix) {
  const std::string dotted = std::string(prefix) + ".";
  known_.insert(dotted + "...");
  Options taken;
  auto at = values_.lower_bound(dotted);
  while (at != values_.end() && at->first.starts_with(dotted)) {
    taken.set(at->first.substr(dotted.size()), std::move(at->second), bare_.contains(at->first));
    at = values_.erase(at);
  }
  return taken;
}

void Options::finish(std::string_view what) const {
  if (values_.empty()) return;
  fail(ErrorKind::kInvalidArgument, "{} has no option '{}'; it has: {}", what, values_.begin()->first,
       join(known_));
}

bool asks_for_help(std::string_view text) {
  while (!text.empty()) {
    const std::string element = take_element(text);
    if (element == "help" || element == "?") return true;
  }
  return false;
}

}  // namespace cofre::image
