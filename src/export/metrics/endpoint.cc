#include "export/metrics/endpoint.h"

#include <sys/socket.h>

#include <array>
#include <span>

#include "export/metrics/exposition.h"
#include "export/metrics/http_request.h"

namespace cofre::metrics {
namespace {

constexpr size_t kReceiveBytes = 2048;

std::string refuse(int status, std::string_view sentence) {
  return response(status, "text/plain; charset=utf-8", sentence);
}

std::string answer(std::string_view text, const std::function<std::string()>& page) {
  const Head head = parse_head(text);
  if (!head.well_formed || head.may_follow) return refuse(400, "expecting GET /metrics\n");
  if (head.method != "GET" && head.method != "HEAD") return refuse(405, "only GET and HEAD\n");
  if (head.target.substr(0, head.target.find('?')) != "/metrics")
    return refuse(404, "there is only /metrics\n");
  return response(200, kContentType, page(), head.method == "GET");
}

// Empty: no request came in time.
io::task<std::string> exchange(int fd, io::Cancel& cancel, io::Deadline deadline,
                               const std::function<std::string()>& page) {
  std::string received;
  while (received.size() <= kMostHeadBytes) {
    if (const auto end = head_end(received))
      co_return answer(std::string_view(received).substr(0, *end), page);
    std::array<std::byte, kReceiveBytes> piece;
    const int64_t got = co_await io::receive(fd, piece, &cancel, deadline);
    if (got <= 0) co_return std::string();
    received.append(reinterpret_cast<const char*>(piece.data()), static_cast<size_t>(got));
  }
  co_return refuse(431, "the request is too long\n");
}

}  // namespace

io::task<void> answer_scrape(int fd, io::Cancel& cancel, const std::function<std::string()>& page,
                             uint64_t within_ns) {
  try {
    const io::Deadline deadline = io::Deadline::after_ns(within_ns);
    const std::string text = co_await exchange(fd, cancel, deadline, page);
    if (!text.empty()) co_await io::send_all(fd, std::as_bytes(std::span(text)), nullptr, deadline);
    ::shutdown(fd, SHUT_WR);
  } catch (const std::exception&) {  // no memory: hangs up
  }
}

}  // namespace cofre::metrics
