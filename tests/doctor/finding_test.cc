// The report as JSON, and the count that decides the exit status.
#include "doctor/finding.h"

#include <gtest/gtest.h>

namespace cofre::doctor {
namespace {

TEST(Report, IsTheSchemaThatTheHeaderPromises) {
  Section host{.name = "host", .title = "Host"};
  host.facts["kernel"] = "aesni";
  host.ok("fine", "All is well");
  Section image{.name = "image", .title = "Image x"};
  image.attention("bad", "Not so well", "Do this", "x.qcow2");
  image.note("odd", "Odd");
  const Json report = report_json({host, image});
  EXPECT_EQ(
      report.dump(),
      R"({"schema":1,"attention":1,)"
      R"("host":{"kernel":"aesni","findings":[{"id":"fine","severity":"ok","sentence":"All is well"}]},)"
      R"("image":{"findings":[{"id":"bad","severity":"attention","sentence":"Not so well","remedy":"Do this",)"
      R"("subject":"x.qcow2"},{"id":"odd","severity":"note","sentence":"Odd"}]}})");
}

TEST(Report, CountsOnlyWhatNeedsAttention) {
  Section section{.name = "s", .title = "S"};
  section.ok("a", "a");
  section.note("b", "b");
  EXPECT_EQ(count_attention({section}), 0u);
  section.attention("c", "c");
  section.attention("c", "c");
  EXPECT_EQ(count_attention({section, section}), 4u);
}

}  // namespace
}  // namespace cofre::doctor
