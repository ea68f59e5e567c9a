// What the LUKS tests share: a reactor to run on, seeded bytes, quick options, every cipher there is.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "format/luks/luks1.h"
#include "io/reactor.h"
#include "io/simulated_reactor.h"

namespace cofre::luks {

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

inline ConstBytes as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

inline std::vector<std::byte> random_bytes_of(std::mt19937_64& random, size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// One thousand iterations: the least that is allowed, for speed.
inline Luks1CreateOptions quick_options() {
  return {.forced_iterations = 1000};
}

// Every cipher specification that validates.
inline std::vector<crypto::CipherSpec> all_ciphers() {
  using enum crypto::CipherAlgorithm;
  std::vector<crypto::CipherSpec> valid;
  for (const auto algorithm : {aes128, aes192, aes256, serpent128, serpent192, serpent256, twofish128,
                               twofish192, twofish256, cast5_128, sm4}) {
    for (const auto mode : {crypto::CipherMode::ecb, crypto::CipherMode::cbc, crypto::CipherMode::xts,
                            crypto::CipherMode::ctr}) {
      for (const auto iv : {crypto::IvGenerator::none, crypto::IvGenerator::plain,
                            crypto::IvGenerator::plain64, crypto::IvGenerator::essiv}) {
        for (const auto digest : {crypto::DigestAlgorithm::md5, crypto::DigestAlgorithm::sha256}) {
          if (iv != crypto::IvGenerator::essiv && digest == crypto::DigestAlgorithm::md5) continue;
          const crypto::CipherSpec spec{algorithm, mode, iv, digest};
          try {
            spec.validate();
          } catch (const Error&) {
            continue;
          }
          valid.push_back(spec);
        }
      }
    }
  }
  return valid;
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

}  // namespace cofre::luks
