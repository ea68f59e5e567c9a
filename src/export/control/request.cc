#include "export/control/request.h"

#include "base/error.h"

namespace cofre::control {
namespace {

const char* kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalidArgument:
      return "invalid-argument";
    case ErrorKind::kNotFound:
      return "not-found";
    case ErrorKind::kExists:
      return "exists";
    case ErrorKind::kPermission:
      return "permission";
    case ErrorKind::kReadOnly:
      return "read-only";
    case ErrorKind::kLocked:
      return "locked";
    case ErrorKind::kIo:
      return "io";
    case ErrorKind::kNoSpace:
      return "no-space";
    case ErrorKind::kCorrupt:
      return "corrupt";
    case ErrorKind::kUnsupported:
      return "unsupported";
    case ErrorKind::kMissingSecret:
      return "missing-secret";
    case ErrorKind::kWrongSecret:
      return "wrong-secret";
    case ErrorKind::kCancelled:
      return "cancelled";
    case ErrorKind::kLimit:
      return "limit";
  }
  return "io";
}

// Names of files may be anything; a line is UTF-8.
std::string one_line(const Json& object) {
  return object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json begin_answer(const Json& id) {
  Json answer = Json::object();
  if (!id.is_null()) answer["id"] = id;
  return answer;
}

}  // namespace

Request Request::parse(std::string_view line) {
  Request request;
  request.fields_ = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!request.fields_.is_object())
    fail(ErrorKind::kInvalidArgument, "a request is a JSON object on one line: {{\"command\": \"status\"}}");
  if (const Json* const id = request.take("id")) {
    if (!id->is_string() && !id->is_number())
      fail(ErrorKind::kInvalidArgument, "the id of a request is a string or a number");
    request.id_ = *id;
  }
  request.command_ = request.text("command");
  return request;
}

const Json* Request::take(const std::string& field) {
  taken_.insert(field);
  const auto found = fields_.find(field);
  return found != fields_.end() && !found->is_null() ? &*found : nullptr;
}

std::optional<std::string> Request::take_text(const std::string& field) {
  const Json* const value = take(field);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) fail(ErrorKind::kInvalidArgument, "'{}' is a string", field);
  return value->get<std::string>();
}

std::optional<bool> Request::take_bool(const std::string& field) {
  const Json* const value = take(field);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) fail(ErrorKind::kInvalidArgument, "'{}' is true or false", field);
  return value->get<bool>();
}

std::optional<uint64_t> Request::take_number(const std::string& field) {
  const Json* const value = take(field);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number_unsigned())
    fail(ErrorKind::kInvalidArgument, "'{}' is a whole number, not negative", field);
  return value->get<uint64_t>();
}

std::vector<std::string> Request::take_texts(const std::string& field) {
  const Json* const value = take(field);
  if (value == nullptr) return {};
  if (value->is_string()) return {value->get<std::string>()};
  std::vector<std::string> texts;
  for (const Json& one : value->is_array() ? *value : Json::array({Json()})) {
    if (!one.is_string()) fail(ErrorKind::kInvalidArgument, "'{}' is a list of strings", field);
    texts.push_back(one.get<std::string>());
  }
  return texts;
}

std::string Request::text(const std::string& field) {
  std::optional<std::string> value = take_text(field);
  if (!value) fail(ErrorKind::kInvalidArgument, "the request has no '{}'", field);
  return std::move(*value);
}

void Request::finish() const {
  for (const auto& field : fields_.items())
    if (!taken_.contains(field.key()))
      fail(ErrorKind::kInvalidArgument, "'{}' has no '{}'", command_, field.key());
}

std::string answer_line(const Json& id, Json result) {
  Json answer = begin_answer(id);
  answer["ok"] = true;
  answer["result"] = std::move(result);
  return one_line(answer);
}

std::string error_line(const Json& id, const std::exception& error) {
  const auto* const ours = dynamic_cast<const Error*>(&error);
  Json answer = begin_answer(id);
  answer["ok"] = false;
  answer["error"] = {{"kind", ours != nullptr ? kind_name(ours->kind()) : "limit"},
                     {"message", ours != nullptr ? ours->what() : "out of memory"}};
  return one_line(answer);
}

}  // namespace cofre::control
