#include "base/aligned_buffer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <set>
#include <thread>
#include <vector>

namespace cofre {
namespace {

TEST(AlignedBuffer, IsPageAlignedAndItsOwn) {
  std::vector<AlignedBuffer> buffers;
  for (const size_t size :
       {0u, 1u, 511u, 4096u, 4097u, 65536u, 100000u, 4u << 20, (4u << 20) + 1, 9u << 20}) {
    buffers.emplace_back(size);
    AlignedBuffer& buffer = buffers.back();
    EXPECT_EQ(buffer.size(), size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % kBufferAlignment, 0u);
    std::memset(buffer.data(), static_cast<int>(buffers.size()), size);
  }
  for (size_t i = 0; i < buffers.size(); ++i)
    for (const std::byte byte : buffers[i].bytes()) ASSERT_EQ(byte, static_cast<std::byte>(i + 1));
}

TEST(AlignedBuffer, MovesWithoutCopying) {
  AlignedBuffer first(5000);
  std::byte* const data = first.data();
  AlignedBuffer second(std::move(first));
  EXPECT_EQ(second.data(), data);
  EXPECT_EQ(second.size(), 5000u);
  AlignedBuffer third(10);
  third = std::move(second);
  EXPECT_EQ(third.data(), data);
  EXPECT_FALSE(AlignedBuffer());
}

TEST(AlignedBuffer, LiveOnesNeverShareMemory) {
  // More than a free list keeps, freed and taken again.
  for (int round = 0; round < 3; ++round) {
    std::vector<AlignedBuffer> buffers;
    std::set<std::byte*> seen;
    for (int i = 0; i < 50; ++i) {
      buffers.emplace_back(20000);
      EXPECT_TRUE(seen.insert(buffers.back().data()).second);
    }
  }
}

TEST(AlignedBuffer, RefusesSizesThatWrap) {
  EXPECT_THROW(AlignedBuffer(SIZE_MAX), std::bad_alloc);
  EXPECT_THROW(AlignedBuffer(SIZE_MAX - 4096), std::bad_alloc);
}

TEST(AlignedBuffer, MayBeFreedElsewhere) {
  std::vector<AlignedBuffer> buffers;
  std::thread maker([&] {
    for (int i = 0; i < 40; ++i) buffers.emplace_back(8192);
  });
  maker.join();
  std::thread([mine = std::move(buffers)]() mutable { mine.clear(); }).join();
  AlignedBuffer here(8192);
  std::memset(here.data(), 1, here.size());
}

// Thread-local objects die in reverse order of their making: this one's buffer is freed after the free lists.
TEST(AlignedBuffer, OutlivesTheFreeListsOfItsThread) {
  std::thread([] {
    thread_local AlignedBuffer late;
    late = AlignedBuffer();
    {
      AlignedBuffer early(4096);
    }  // makes the free lists now
    late = AlignedBuffer(4096);
  }).join();
}

}  // namespace
}  // namespace cofre
