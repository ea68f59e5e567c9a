// What the qcow2 tests share: a seed, a device that is borrowed, images in memory, and their damage.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "block/device.h"
#include "format/qcow2/check.h"
#include "format/qcow2/create.h"
#include "format/qcow2/image.h"
#include "io/simulated_reactor.h"
#include "storage/memory.h"

namespace cofre::qcow2 {

// COFRE_TEST_SEED, or a new one; printed, so that a failure can be replayed.
inline uint64_t test_seed() {
  static const uint64_t seed = [] {
    const char* given = std::getenv("COFRE_TEST_SEED");
    const uint64_t value = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    std::fprintf(stderr, "COFRE_TEST_SEED=%llu\n", static_cast<unsigned long long>(value));
    return value;
  }();
  return seed;
}

// Rounds of a random test: fewer under sanitizers, where each is slow.
constexpr int rounds(int in_release) {
#ifdef NDEBUG
  return in_release;
#else
  return in_release / 20 > 0 ? in_release / 20 : 1;
#endif
}

inline ConstBytes as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

// Stands for a device that outlives it: images own their devices, tests look at them afterwards.
class Borrowed : public block::Device {
 public:
  explicit Borrowed(block::Device& inner) : inner_(inner) {}
  const std::string& name() const override { return inner_.name(); }
  const block::Limits& limits() const override { return inner_.limits(); }
  uint64_t length_bytes() const override { return inner_.length_bytes(); }
  io::task<void> read(uint64_t offset, Bytes to) override { return inner_.read(offset, to); }
  io::task<void> write(uint64_t offset, ConstBytes from, block::WriteFlags flags) override {
    return inner_.write(offset, from, flags);
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override {
    return inner_.write_zeroes(offset, length, flags);
  }
  io::task<void> discard(uint64_t offset, uint64_t length) override { return inner_.discard(offset, length); }
  io::task<void> flush() override { return inner_.flush(); }
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override {
    return inner_.map(offset, length);
  }
  io::task<void> resize(uint64_t length) override { return inner_.resize(length); }
  io::task<void> close() override { return inner_.close(); }

 private:
  block::Device& inner_;
};

// Expects that `run` throws an Error of that kind whose sentence has `part` in it.
template <typename Run>
void expect_error(ErrorKind kind, std::string_view part, Run&& run) {
  try {
    run();
    ADD_FAILURE() << "nothing was thrown; expected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos)
        << "expected \"" << part << "\" in: " << error.what();
  }
}

}  // namespace cofre::qcow2
