// The little of HTTP/1.1 that a scrape needs. Source: RFC 9112.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace cofre::metrics {

inline constexpr size_t kMostHeadBytes = 8192;

// How many bytes the head of a request has, its empty line included; nothing while that has not come.
std::optional<size_t> head_end(std::string_view received);

struct Head {
  bool well_formed = false;
  std::string_view method;  // into the text that was parsed
  std::string_view target;
  bool may_follow = false;  // a body, which no request here has
};
Head parse_head(std::string_view head);

// What is answered; the connection ends with it. `body` is left out of an answer to HEAD, its length is not.
std::string response(int status, std::string_view content_type, std::string_view body, bool with_body = true);

}  // namespace cofre::metrics
