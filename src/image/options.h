// Options as QEMU writes them: "a=b,c.d=e,flag" lists, json:{...} names. One flat type holds them all: nested
// objects become dotted keys ("file.filename"), booleans "on" and "off", numbers their digits. Any lane.
//
// Readers take what they know; finish() then refuses what is left, naming it and what would have been known.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace cofre::image {

class Options {
 public:
  // "key=value,key=value": a comma inside a value is doubled. A lone `key` is key=on, a lone `nokey` key=off.
  // The last of several equal keys counts. A first part without '=' is the value of `implied_key` if that is
  // not empty. Throws Error kInvalidArgument.
  static Options parse_list(std::string_view text, std::string_view implied_key = {});
  // The text after "json:". Throws Error kInvalidArgument.
  static Options parse_json(std::string_view text);

  // Takes over what `later` holds; later values win.
  void merge(const Options& later);
  // `bare`: it stands in a json: name without quotes, a number, true or false.
  void set(std::string key, std::string value, bool bare = false) {
    if (bare) {
      bare_.insert(key);
    } else {
      bare_.erase(key);
    }
    values_[std::move(key)] = std::move(value);
  }
  bool has(std::string_view key) const { return values_.find(key) != values_.end(); }
  bool has_prefix(std::string_view prefix) const;
  bool empty() const noexcept { return values_.empty(); }
  const std::map<std::string, std::string, std::less<>>& values() const noexcept { return values_; }
  // A value as a json: name shows it: with quotes, or without if it came so.
  nlohmann::ordered_json described(std::string_view key) const;

  // Each removes the key and gives its value, or nothing when it was not there. Throws Error kInvalidArgument
  // for a value that is not of the kind.
  std::optional<std::string> take(std::string_view key);
  std::optional<bool> take_bool(std::string_view key);
  std::optional<uint64_t> take_size(std::string_view key);
  std::optional<uint64_t> take_number(std::string_view key);
  // Removes all keys that start with "prefix." and gives them without it.
  Options take_prefix(std::string_view prefix);

  // Throws Error kInvalidArgument if anything is left: "`what` has no option 'x'; it has a, b, c".
  void finish(std::string_view what) const;

 private:
  std::map<std::string, std::string, std::less<>> values_;
  std::set<std::string, std::less<>> known_;
  std::set<std::string, std::less<>> bare_;
};

// Whether an -o text asks for the list of options: "help" or "?", alone or as an element.
bool asks_for_help(std::string_view text);

}  // namespace cofre::image
