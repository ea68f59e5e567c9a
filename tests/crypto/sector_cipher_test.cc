#include "crypto/sector_cipher.h"

#include <gtest/gtest.h>

#include <thread>

#include "base/error.h"
#include "crypto/reference.h"
#include "crypto/support.h"

namespace cofre::crypto {
namespace {

using ByteVector = std::vector<std::byte>;

void expect_invalid(auto function) {
  try {
    function();
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument) << error.what();
  }
}

TEST(SectorCipher, WrongArgumentsFail) {
  const CipherSpec spec;
  const ByteVector key(64);
  expect_invalid([&] { SectorCipher::create(spec, ConstBytes(key).first(32)); });
  for (const uint32_t sector_bytes : {0u, 16u, 511u, 1536u, 8192u})
    expect_invalid([&] { SectorCipher::create(spec, key, sector_bytes); });
  CipherSpec impossible;
  impossible.iv = IvGenerator::none;
  expect_invalid([&] { SectorCipher::create(impossible, key); });
}

TEST(SectorCipher, RunsThatAreNoRunsFailAndChangeNothing) {
  const auto cipher = SectorCipher::create({}, ByteVector(64));
  ByteVector bytes(4096, std::byte{5});
  const Bytes all = bytes;
  expect_invalid([&] { cipher->encrypt(0, all.first(511), all.first(511)); });
  expect_invalid([&] { cipher->encrypt(0, all.first(1024), all.subspan(2048, 512)); });
  expect_invalid([&] { cipher->decrypt(0, all.first(1024), all.subspan(512, 1024)); });
  expect_invalid([&] { cipher->decrypt(0, all.subspan(16, 1024), all.first(1024)); });
  EXPECT_EQ(bytes, ByteVector(4096, std::byte{5}));
  cipher->encrypt(0, all.first(512), all.subspan(512, 512));  // neighbours do not overlap
  cipher->encrypt(0, {}, {});
}

TEST(SectorCipher, SaysWhatComputesIt) {
  const std::string kernel(selected_aes_kernel().name);
  EXPECT_EQ(SectorCipher::create({}, ByteVector(64))->implementation(), "aes-256-xts-plain64 " + kernel);
  const CipherSpec serpent{CipherAlgorithm::serpent256, CipherMode::cbc, IvGenerator::essiv,
                           DigestAlgorithm::sha256};
  EXPECT_EQ(SectorCipher::create(serpent, ByteVector(32))->implementation(),
            "serpent-256-cbc-essiv:sha256 libgcrypt");
}

// qcow2's legacy method: AES-128 in CBC, the IV is the guest's sector number.
TEST(SectorCipher, LegacyQcow2) {
  const CipherSpec spec{CipherAlgorithm::aes128, CipherMode::cbc, IvGenerator::plain64,
                        DigestAlgorithm::sha256};
  const ByteVector key(16, std::byte{'k'});
  const ByteVector plain(1024, std::byte{0x11});
  ByteVector text(1024);
  SectorCipher::create(spec, key)->encrypt(0x0102030405, plain, text);
  // The first block of sector n + 1, by hand.
  ByteVector block(16, std::byte{0x11});
  const uint8_t iv[16] = {6, 4, 3, 2, 1};
  for (size_t i = 0; i < 16; ++i) block[i] ^= std::byte{iv[i]};
  const ByteVector expected = reference_cipher(CipherAlgorithm::aes128, key).encrypt(block);
  EXPECT_EQ(to_hex(ConstBytes(text).subspan(512, 16)), to_hex(expected));
}

// One object, many threads at once.
TEST(SectorCipher, Threads) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  for (const auto algorithm : {CipherAlgorithm::aes256, CipherAlgorithm::serpent256,
                               CipherAlgorithm::twofish192, CipherAlgorithm::sm4}) {
    std::mt19937_64 random(seed);
    const CipherSpec spec{algorithm, CipherMode::cbc, IvGenerator::plain64, DigestAlgorithm::sha256};
    const ByteVector key = random_bytes(random, spec.key_bytes());
    const ByteVector plain = random_bytes(random, 40 * 512);
    const ByteVector expected = reference_encrypt(spec, key, 512, 1, 3, plain);
    const auto cipher = SectorCipher::create(spec, key);
    std::vector<int> agreed(8);
    std::vector<std::thread> threads;
    for (int& count : agreed)
      threads.emplace_back([&] {
        for (int i = 0; i < 40; ++i) {
          ByteVector text(plain.size()), back(plain.size());
          cipher->encrypt(3, plain, text);
          cipher->decrypt(3, text, back);
          count += text == expected && back == plain;
        }
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(agreed, std::vector<int>(8, 40)) << cipher_algorithm_name(algorithm);
  }
}

}  // namespace
}  // namespace cofre::crypto
