// What is particular to io_uring, and to choosing a backend.
#include <gtest/gtest.h>

#include "base/error.h"
#include "io/reactor.h"

namespace cofre::io {
namespace {

TEST(MakeReactor, GivesWhatIsAskedFor) {
  EXPECT_EQ(make_reactor(Backend::kThreads)->backend(), "threads");
  if (io_uring_permitted()) {
    EXPECT_EQ(make_reactor(Backend::kIoUring)->backend(), "io_uring");
    EXPECT_EQ(make_reactor()->backend(), "io_uring");
  } else {
    EXPECT_THROW(make_reactor(Backend::kIoUring), Error);
    EXPECT_EQ(make_reactor()->backend(), "threads");
  }
}

}  // namespace
}  // namespace cofre::io
