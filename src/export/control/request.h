// The control socket's language: a line with a JSON object asks, a line with a JSON object answers.
//
//   {"command": "bitmap-add", "export": "disk", "bitmap": "monday", "id": 7}
//   {"id": 7, "ok": true, "result": {}}
//   {"id": 7, "ok": false, "error": {"kind": "not-found", "message": "..."}}
//
// "id", a string or a number, may be left out; what was asked for with it is answered with it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace cofre::control {

using Json = nlohmann::ordered_json;

inline constexpr size_t kMostLineBytes = 65536;

// What stands in a request beside its command. Readers take what they know; finish() refuses the rest. Throw
// Error kInvalidArgument for a field that is not of the kind.
class Request {
 public:
  // Throws Error kInvalidArgument for what is no request.
  static Request parse(std::string_view line);

  const std::string& command() const noexcept { return command_; }
  const Json& id() const noexcept { return id_; }  // null where there is none

  std::optional<std::string> take_text(const std::string& field);
  std::optional<bool> take_bool(const std::string& field);
  std::optional<uint64_t> take_number(const std::string& field);
  // A list of strings, or one string.
  std::vector<std::string> take_texts(const std::string& field);
  // The same as take_text() for what has to be there.
  std::string text(const std::string& field);
  void finish() const;

 private:
  const Json* take(const std::string& field);

  std::string command_;
  Json id_;
  Json fields_;
  std::set<std::string> taken_;
};

// Each is one line, its end included.
std::string answer_line(const Json& id, Json result);
std::string error_line(const Json& id, const std::exception& error);

}  // namespace cofre::control
