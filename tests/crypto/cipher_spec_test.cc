#include "crypto/cipher_spec.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace cofre::crypto {
namespace {

constexpr CipherAlgorithm kAllAlgorithms[] = {
    CipherAlgorithm::aes128,     CipherAlgorithm::aes192,     CipherAlgorithm::aes256,
    CipherAlgorithm::serpent128, CipherAlgorithm::serpent192, CipherAlgorithm::serpent256,
    CipherAlgorithm::twofish128, CipherAlgorithm::twofish192, CipherAlgorithm::twofish256,
    CipherAlgorithm::cast5_128,  CipherAlgorithm::sm4};
constexpr CipherMode kAllModes[] = {CipherMode::ecb, CipherMode::cbc, CipherMode::xts, CipherMode::ctr};

ErrorKind kind_thrown_by(auto function) {
  try {
    function();
  } catch (const Error& error) {
    return error.kind();
  }
  ADD_FAILURE() << "nothing thrown";
  return ErrorKind::kCancelled;
}

TEST(CipherSpec, NamesGoBothWays) {
  for (const auto algorithm : kAllAlgorithms)
    EXPECT_EQ(parse_cipher_algorithm(cipher_algorithm_name(algorithm)), algorithm);
  for (const auto mode : kAllModes) EXPECT_EQ(parse_cipher_mode(cipher_mode_name(mode)), mode);
  for (const auto iv : {IvGenerator::plain, IvGenerator::plain64, IvGenerator::essiv})
    EXPECT_EQ(parse_iv_generator(iv_generator_name(iv)), iv);
  EXPECT_EQ(cipher_algorithm_name(CipherAlgorithm::aes256), "aes-256");
  EXPECT_EQ(cipher_algorithm_name(CipherAlgorithm::cast5_128), "cast5-128");
  EXPECT_EQ(cipher_algorithm_name(CipherAlgorithm::sm4), "sm4");
  EXPECT_EQ(parse_cipher_algorithm("aes"), std::nullopt);
  EXPECT_EQ(parse_cipher_algorithm("AES-256"), std::nullopt);
  EXPECT_EQ(parse_cipher_mode(""), std::nullopt);
  EXPECT_EQ(parse_iv_generator(""), std::nullopt);
}

TEST(CipherSpec, KeyLengths) {
  const auto bytes = [](CipherAlgorithm algorithm, CipherMode mode) {
    return CipherSpec{algorithm, mode, IvGenerator::plain64, DigestAlgorithm::sha256}.key_bytes();
  };
  EXPECT_EQ(bytes(CipherAlgorithm::aes128, CipherMode::cbc), 16u);
  EXPECT_EQ(bytes(CipherAlgorithm::aes192, CipherMode::xts), 48u);
  EXPECT_EQ(bytes(CipherAlgorithm::aes256, CipherMode::xts), 64u);
  EXPECT_EQ(bytes(CipherAlgorithm::twofish256, CipherMode::ctr), 32u);
  EXPECT_EQ(bytes(CipherAlgorithm::cast5_128, CipherMode::ecb), 16u);
}

TEST(CipherSpec, LuksSpellings) {
  const CipherSpec xts = parse_luks_cipher("aes", "xts-plain64", 64);
  EXPECT_EQ(xts, (CipherSpec{CipherAlgorithm::aes256, CipherMode::xts, IvGenerator::plain64, {}}));
  EXPECT_EQ(xts.to_string(), "aes-256-xts-plain64");
  const CipherSpec essiv = parse_luks_cipher("serpent", "cbc-essiv:sha256", 16);
  EXPECT_EQ(essiv, (CipherSpec{CipherAlgorithm::serpent128, CipherMode::cbc, IvGenerator::essiv,
                               DigestAlgorithm::sha256}));
  EXPECT_EQ(parse_luks_cipher("cast5", "cbc-plain", 16).algorithm, CipherAlgorithm::cast5_128);
  EXPECT_EQ(parse_luks_cipher("twofish", "ecb", 24).algorithm, CipherAlgorithm::twofish192);
  // QEMU writes an IV generator into the header of ECB, too, and never uses it.
  EXPECT_EQ(parse_luks_cipher("aes", "ecb-plain64", 16).iv, IvGenerator::plain64);
}

TEST(CipherSpec, LuksSpellingsGoBothWays) {
  for (const auto algorithm : kAllAlgorithms)
    for (const auto mode : kAllModes)
      for (const auto iv : {IvGenerator::none, IvGenerator::plain, IvGenerator::plain64, IvGenerator::essiv})
        for (const auto hash : {DigestAlgorithm::md5, DigestAlgorithm::sha256}) {
          const CipherSpec spec{algorithm, mode, iv, hash};
          try {
            spec.validate();
          } catch (const Error&) {
            continue;
          }
          EXPECT_EQ(parse_luks_cipher(luks_cipher_name(spec), luks_cipher_mode(spec), spec.key_bytes()),
                    spec);
        }
}

TEST(CipherSpec, WhatCannotBe) {
  const auto kind = [](CipherAlgorithm algorithm, CipherMode mode, IvGenerator iv, DigestAlgorithm hash) {
    return kind_thrown_by([=] { CipherSpec{algorithm, mode, iv, hash}.validate(); });
  };
  using enum DigestAlgorithm;
  EXPECT_EQ(kind(CipherAlgorithm::cast5_128, CipherMode::xts, IvGenerator::plain64, sha256),
            ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind(CipherAlgorithm::aes128, CipherMode::cbc, IvGenerator::none, sha256),
            ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind(CipherAlgorithm::aes128, CipherMode::cbc, IvGenerator::essiv, sha1),
            ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind(CipherAlgorithm::aes256, CipherMode::xts, IvGenerator::essiv, sha512),
            ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind(CipherAlgorithm::cast5_128, CipherMode::cbc, IvGenerator::essiv, sha256),
            ErrorKind::kInvalidArgument);
  CipherSpec{CipherAlgorithm::cast5_128, CipherMode::cbc, IvGenerator::essiv, md5}.validate();
  CipherSpec{CipherAlgorithm::aes128, CipherMode::ecb, IvGenerator::none, sha1}.validate();
}

TEST(CipherSpec, HostileHeaders) {
  const auto kind = [](const char* name, const char* mode, size_t key_bytes) {
    return kind_thrown_by([=] { parse_luks_cipher(name, mode, key_bytes); });
  };
  EXPECT_EQ(kind("blowfish", "cbc-plain64", 16), ErrorKind::kUnsupported);
  EXPECT_EQ(kind("", "", 0), ErrorKind::kUnsupported);
  EXPECT_EQ(kind("aes", "xts-", 64), ErrorKind::kUnsupported);
  EXPECT_EQ(kind("aes", "lrw-benbi", 64), ErrorKind::kUnsupported);
  EXPECT_EQ(kind("aes", "cbc-essiv", 32), ErrorKind::kUnsupported);
  EXPECT_EQ(kind("aes", "cbc-essiv:", 32), ErrorKind::kUnsupported);
  EXPECT_EQ(kind("aes", "cbc-essiv:whirlpool", 32), ErrorKind::kUnsupported);
  EXPECT_EQ(kind("aes", "cbc-plain64:sha256", 32), ErrorKind::kUnsupported);
  EXPECT_EQ(kind("aes", "cbc", 32), ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind("aes", "xts-plain64", 16), ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind("aes", "xts-plain64", SIZE_MAX), ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind("cast5", "xts-plain64", 32), ErrorKind::kInvalidArgument);
}

TEST(CipherSpec, EqualityIgnoresADigestThatIsNotUsed) {
  CipherSpec a, b;
  b.essiv_digest = DigestAlgorithm::sha1;
  EXPECT_EQ(a, b);
  a.iv = b.iv = IvGenerator::essiv;
  EXPECT_FALSE(a == b);
}

}  // namespace
}  // namespace cofre::crypto
