#include "export/metrics/http_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace cofre::metrics {
namespace {

constexpr std::string_view kLineEnd = "\r\n";

bool is_token(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](unsigned char c) {
    return std::isalnum(c) != 0 ||
           std::string_view("!#$%&'*+-.^_`|~").find(static_cast<char>(c)) != std::string_view::npos;
  });
}

bool is_visible(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](unsigned char c) { return c > 0x20 && c < 0x7f; });
}

bool is_field_value(std::string_view text) {
  return std::ranges::all_of(text, [](unsigned char c) { return c == '\t' || (c >= 0x20 && c != 0x7f); });
}

bool same_name(std::string_view one, std::string_view lower) {
  return std::ranges::equal(one, lower,
                            [](unsigned char a, unsigned char b) { return std::tolower(a) == b; });
}

const char* reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    default:
      return "Request Header Fields Too Large";  // 431
  }
}

// "METHOD TARGET HTTP/1.x"
bool parse_request_line(std::string_view line, Head& head) {
  const size_t first = line.find(' ');
  const size_t last = line.rfind(' ');
  if (first == std::string_view::npos || first == last) return false;
  head.method = line.substr(0, first);
  head.target = line.substr(first + 1, last - first - 1);
  const std::string_view version = line.substr(last + 1);
  return is_token(head.method) && is_visible(head.target) && (version == "HTTP/1.1" || version == "HTTP/1.0");
}

bool parse_field(std::string_view line, Head& head) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return false;
  const std::string_view name = line.substr(0, colon);
  std::string_view value = line.substr(colon + 1);
  while (!value.empty() && (value.front() == ' ' || value.front() == '\t')) value.remove_prefix(1);
  if (!is_token(name) || !is_field_value(value)) return false;
  if (same_name(name, "transfer-encoding") || (same_name(name, "content-length") && value != "0"))
    head.may_follow = true;
  return true;
}

}  // namespace

std::optional<size_t> head_end(std::string_view received) {
  const size_t found = received.find("\r\n\r\n");
  if (found == std::string_view::npos) return std::nullopt;
  return found + 4;
}

Head parse_head(std::string_view text) {
  Head head;
  bool first = true;
  while (!text.empty()) {
    const size_t end = text.find(kLineEnd);
    if (end == std::string_view::npos) return {};
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end + kLineEnd.size());
    if (line.empty()) {
      head.well_formed = !first && text.empty();
      return head;
    }
    if (!(first ? parse_request_line(line, head) : parse_field(line, head))) return {};
    first = false;
  }
  return {};
}

std::string response(int status, std::string_view content_type, std::string_view body, bool with_body) {
  return fmt::format(
      "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{}Connection: close\r\n\r\n{}", status,
      reason(status), content_type, body.size(), status == 405 ? "Allow: GET, HEAD\r\n" : "",
      with_body ? body : "");
}

}  // namespace cofre::metrics
