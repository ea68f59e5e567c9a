// What the qcow2 tests share: a seed, images in memory, and their damage.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "block/borrowed.h"
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

// Rounds of a random test: fewer under sanitizers, where each is slow; ten times as many in a long run.
inline int rounds(int in_release) {
#ifdef NDEBUG
  static const bool is_long = std::getenv("COFRE_TEST_LONG") != nullptr;
  return is_long ? in_release * 10 : in_release;
#else
  return in_release / 20 > 0 ? in_release / 20 : 1;
#endif
}

inline ConstBytes as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

using block::Borrowed;

inline std::vector<std::byte> load_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> text{std::istreambuf_iterator<char>(file), {}};
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

// A file of an image, in memory, which can grow.
inline std::unique_ptr<storage::MemoryDevice> in_memory(const std::vector<std::byte>& bytes) {
  auto device = std::make_unique<storage::MemoryDevice>(bytes.size(), "image");
  device->content() = bytes;
  device->mutable_limits().growable = true;
  device->mutable_limits().grows_with_zeroes = true;
  return device;
}

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
