// The metrics' two languages: a little HTTP, and Prometheus's text.
#include <gtest/gtest.h>

#include "export/metrics/exposition.h"
#include "export/metrics/http_request.h"

namespace cofre::metrics {
namespace {

TEST(HttpHead, EndsWithAnEmptyLine) {
  EXPECT_EQ(head_end("GET / HTTP/1.1\r\n"), std::nullopt);
  EXPECT_EQ(head_end("GET / HTTP/1.1\r\n\r\nmore"), 18u);
}

TEST(HttpHead, GivesMethodAndTarget) {
  const Head head = parse_head("GET /metrics?x HTTP/1.1\r\nHost: a:1\r\nAccept:*/*\r\n\r\n");
  EXPECT_TRUE(head.well_formed);
  EXPECT_FALSE(head.may_follow);
  EXPECT_EQ(head.method, "GET");
  EXPECT_EQ(head.target, "/metrics?x");
}

TEST(HttpHead, KnowsThatABodyFollows) {
  EXPECT_TRUE(parse_head("GET / HTTP/1.1\r\nContent-Length: 3\r\n\r\n").may_follow);
  EXPECT_FALSE(parse_head("GET / HTTP/1.1\r\ncontent-length: 0\r\n\r\n").may_follow);
  EXPECT_TRUE(parse_head("GET / HTTP/1.1\r\nTRANSFER-encoding: chunked\r\n\r\n").may_follow);
}

TEST(HttpHead, RefusesWhatIsNone) {
  for (const char* text :
       {"\r\n", "GET /\r\n\r\n", "GET / HTTP/2\r\n\r\n", "GET  HTTP/1.1\r\n\r\n", "G T / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nno colon\r\n\r\n", "GET / HTTP/1.1\r\n: x\r\n\r\n",
        "GET / HTTP/1.1\r\n folded: x\r\n\r\n", "GET / HTTP/1.1\r\na: \x01\r\n\r\n", "GET / HTTP/1.1\n\n",
        "GET / HTTP/1.1\r\n\r\nmore", ""})
    EXPECT_FALSE(parse_head(text).well_formed) << text;
}

TEST(HttpResponse, TellsItsLength) {
  EXPECT_EQ(response(404, "text/plain", "no\n"),
            "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: "
            "close\r\n\r\nno\n");
  EXPECT_TRUE(response(200, "text/plain", "page", /*with_body=*/false).ends_with("\r\n\r\n"));
}

TEST(Exposition, EscapesLabels) {
  EXPECT_EQ(escape_label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
}

}  // namespace
}  // namespace cofre::metrics
