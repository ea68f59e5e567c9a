#include "image/create_options.h"

#include <gmock/gmock.h>

#include "scratch.h"

namespace cofre::image {
namespace {

using testing::HasSubstr;

CreateSettings parse(Format format, const char* list) {
  return parse_create_options(format, Options::parse_list(list));
}

std::string refusal(Format format, const char* list) {
  return message_of(ErrorKind::kInvalidArgument, [&] { parse(format, list); });
}

TEST(CreateOptions, DefaultsAreQemuImgs) {
  const CreateSettings settings = parse(Format::kQcow2, "");
  EXPECT_EQ(settings.qcow2.version, 3U);
  EXPECT_EQ(settings.qcow2.cluster_bits, 16U);
  EXPECT_EQ(settings.qcow2.refcount_order, 4U);
  EXPECT_EQ(settings.qcow2.encryption, qcow2::CryptMethod::kNone);
  EXPECT_FALSE(settings.qcow2.lazy_refcounts);
  EXPECT_FALSE(settings.size_bytes);
}

TEST(CreateOptions, EveryOptionArrives) {
  const CreateSettings settings = parse(
      Format::kQcow2,
      "cluster_size=128k,refcount_bits=1,compat=v3,lazy_refcounts=on,extended_l2=on,compression_type=zstd,"
      "size=3M,"
      "backing_file=b,backing_fmt=raw,data_file=d,data_file_raw=off,preallocation=metadata,encrypt.format="
      "luks,"
      "encrypt.key-secret=s0,encrypt.cipher-alg=serpent-256,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,"
      "encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha512,encrypt.iter-time=10");
  const qcow2::CreateOptions& qcow2 = settings.qcow2;
  EXPECT_EQ(qcow2.cluster_bits, 17U);
  EXPECT_EQ(qcow2.refcount_order, 0U);
  EXPECT_TRUE(qcow2.lazy_refcounts);
  EXPECT_TRUE(qcow2.extended_l2);
  EXPECT_EQ(qcow2.compression_type, qcow2::CompressionType::kZstd);
  EXPECT_EQ(settings.size_bytes, 3 * kMiB);
  EXPECT_EQ(qcow2.backing_file, "b");
  EXPECT_EQ(qcow2.backing_format, "raw");
  EXPECT_EQ(qcow2.data_file, "d");
  EXPECT_EQ(qcow2.preallocation, qcow2::Preallocation::kMetadata);
  EXPECT_EQ(qcow2.encryption, qcow2::CryptMethod::kLuks);
  EXPECT_EQ(settings.key_secret, "s0");
  EXPECT_EQ(qcow2.luks.cipher.to_string(), "serpent-256-cbc-essiv:sha256");
  EXPECT_EQ(qcow2.luks.hash, crypto::DigestAlgorithm::sha512);
  EXPECT_EQ(qcow2.luks.iter_time, std::chrono::milliseconds(10));
}

TEST(CreateOptions, TheHistoricOptionMeansAes) {
  for (const char* list : {"encryption", "encryption=on"}) {
    const CreateSettings settings = parse(Format::kQcow2, list);
    EXPECT_EQ(settings.qcow2.encryption, qcow2::CryptMethod::kAes);
    EXPECT_TRUE(settings.legacy_encryption);
  }
  EXPECT_EQ(parse(Format::kQcow2, "encryption=off").qcow2.encryption, qcow2::CryptMethod::kNone);
  EXPECT_FALSE(parse(Format::kQcow2, "encrypt.format=aes").legacy_encryption);
}

TEST(CreateOptions, WhatCannotBeIsRefused) {
  for (const char* list :
       {"cluster_size=3000", "cluster_size=256", "cluster_size=4M", "refcount_bits=3", "refcount_bits=128",
        "compat=2", "compression_type=lzma", "preallocation=some", "encrypt.format=rot13",
        "encrypt.key-secret=s0", "encrypt.cipher-alg=aes-128", "encrypt.format=aes,encrypt.hash-alg=sha1",
        "encryption=on,encrypt.format=luks", "encrypt.format=luks,encrypt.iter-time=9999999999",
        "encrypt.format=luks,encrypt.cipher-alg=rot-13", "extended_l2=maybe", "size=many"})
    EXPECT_NE(refusal(Format::kQcow2, list), "") << list;
  refusal(Format::kRaw, "preallocation=metadata");
  refusal(Format::kRaw, "backing_file=b");
  refusal(Format::kLuks, "encrypt.format=luks");
}

TEST(CreateOptions, AnUnknownOptionIsNamedWithTheKnownOnes) {
  const std::string message = refusal(Format::kQcow2, "cluster_sise=64k");
  EXPECT_THAT(message, HasSubstr("'cluster_sise'"));
  for (const OptionHelp& option : create_options(Format::kQcow2)) {
    if (!option.name.starts_with("encrypt.")) EXPECT_THAT(message, HasSubstr(std::string(option.name)));
  }
}

TEST(CreateOptions, HelpListsEveryOption) {
  for (const Format format : {Format::kRaw, Format::kLuks, Format::kQcow2}) {
    const std::string help = create_options_help(format, true);
    for (const OptionHelp& option : create_options(format))
      EXPECT_THAT(help, HasSubstr("  " + std::string(option.name) + "=<" + std::string(option.kind) + ">"));
  }
}

// As qemu-img 7.2 prints behind "Formatting 'x', ".
TEST(CreateOptions, TheSummaryIsQemuImgs) {
  const auto summary = [](Format format, const char* list, uint64_t size) {
    return options_summary(format, Options::parse_list(list), size);
  };
  EXPECT_EQ(
      summary(Format::kQcow2, "", 1073741824),
      "fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=1073741824 lazy_refcounts=off "
      "refcount_bits=16");
  EXPECT_EQ(summary(Format::kQcow2,
                    "encrypt.iter-time=10,encrypt.key-secret=s0,encrypt.format=luks,cluster_size=64k", 1),
            "fmt=qcow2 encrypt.format=luks encrypt.key-secret=s0 encrypt.iter-time=10 cluster_size=65536 "
            "extended_l2=off "
            "compression_type=zlib size=1 lazy_refcounts=off refcount_bits=16");
  EXPECT_EQ(
      summary(Format::kQcow2, "backing_file=a,backing_fmt=qcow2,compat=v3,lazy_refcounts=yes", 5),
      "fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=5 compat=v3 backing_file=a "
      "backing_fmt=qcow2 lazy_refcounts=on refcount_bits=16");
  EXPECT_EQ(summary(Format::kLuks, "iter-time=10,key-secret=s0", 10485760),
            "fmt=luks size=10485760 key-secret=s0 iter-time=10");
  EXPECT_EQ(summary(Format::kRaw, "", 7), "fmt=raw size=7");
}

}  // namespace
}  // namespace cofre::image
