// Making LUKS1 volumes and opening them, on memory.
#include "format/luks/luks1.h"

#include <algorithm>
#include <regex>
#include <set>

#include "block/checked.h"
#include "failing_device.h"
#include "luks_fixtures.h"
#include "storage/memory.h"

namespace cofre::luks {
namespace {

const std::string_view kPassphrase = "correct horse battery staple";

class Luks1 : public testing::Test {
 protected:
  Luks1Volume format(block::Device& storage, const Luks1CreateOptions& options, uint64_t header_offset = 0,
                     std::string_view passphrase = kPassphrase) {
    return reactor_.run_until_done(luks1_format(storage, header_offset, options, as_bytes(passphrase)));
  }
  Luks1Volume unlock(block::Device& storage, std::string_view passphrase = kPassphrase,
                     uint64_t header_offset = 0, uint64_t area_bytes = 0) {
    return reactor_.run_until_done(luks1_unlock(storage, header_offset, area_bytes, as_bytes(passphrase)));
  }

  io::SimulatedReactor reactor_{test_seed()};
  std::mt19937_64 random_{test_seed()};
  storage::MemoryDevice storage_{0, "volume.luks"};
};

void expect_same(const Luks1Volume& a, const Luks1Volume& b) {
  EXPECT_EQ(a.header, b.header);
  EXPECT_TRUE(std::ranges::equal(a.volume_key.bytes(), b.volume_key.bytes()));
  EXPECT_EQ(a.keyslot, b.keyslot);
}

TEST_F(Luks1, EveryCipherOpensAgain) {
  for (const crypto::CipherSpec& cipher : all_ciphers()) {
    SCOPED_TRACE(cipher.to_string());
    storage::MemoryDevice storage;
    Luks1CreateOptions options = quick_options();
    options.cipher = cipher;
    const Luks1Volume made = format(storage, options);
    EXPECT_EQ(storage.length_bytes(), luks1_header_bytes(options));
    EXPECT_EQ(made.header.cipher, cipher);
    expect_same(unlock(storage), made);
    expect_error(ErrorKind::kWrongSecret, "memory", [&] { unlock(storage, "wrong"); });
  }
}

TEST_F(Luks1, EveryHashOpensAgain) {
  using enum crypto::DigestAlgorithm;
  for (const auto hash : {sha1, sha224, sha256, sha384, sha512, ripemd160}) {
    SCOPED_TRACE(crypto::digest_name(hash));
    storage::MemoryDevice storage;
    Luks1CreateOptions options = quick_options();
    options.hash = hash;
    const Luks1Volume made = format(storage, options);
    expect_same(unlock(storage), made);
  }
}

TEST_F(Luks1, EveryPassphraseOpensOnlyItsOwn) {
  for (const std::string& passphrase : {std::string(), std::string("a"), std::string("with\0zero", 9),
                                        std::string(1000, 'x'), std::string("p\xc3\xa4ssword\n")}) {
    storage::MemoryDevice storage;
    format(storage, quick_options(), 0, passphrase);
    unlock(storage, passphrase);
    expect_error(ErrorKind::kWrongSecret, "passphrase", [&] { unlock(storage, passphrase + "y"); });
  }
}

TEST_F(Luks1, HeaderBytesAreThoseOfQemu) {
  EXPECT_EQ(luks1_header_bytes({}), 2068480u);
  EXPECT_EQ(luks1_header_bytes(parse_luks1_options({.cipher_alg = "aes-128"})), 2056u * 512);
}

TEST_F(Luks1, NewVolumesShareNothing) {
  std::set<std::string> seen;
  const std::regex version4("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}");
  const auto text_of = [](ConstBytes bytes) {
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  for (int i = 0; i < 5; ++i) {
    const Luks1Volume volume = format(storage_, quick_options());
    EXPECT_TRUE(std::regex_match(volume.header.uuid_text(), version4)) << volume.header.uuid_text();
    EXPECT_TRUE(seen.insert(volume.header.uuid_text()).second);
    EXPECT_TRUE(seen.insert(text_of(volume.volume_key.bytes())).second);
    EXPECT_TRUE(seen.insert(text_of(volume.header.volume_key_salt)).second);
    EXPECT_TRUE(seen.insert(text_of(volume.header.keyslots[0].salt)).second);
  }
}

TEST_F(Luks1, TheVolumeKeyIsNotOnTheStorage) {
  const Luks1Volume volume = format(storage_, quick_options());
  const ConstBytes key = volume.volume_key.bytes();
  EXPECT_TRUE(std::ranges::search(storage_.content(), key.first(16)).empty());
  EXPECT_TRUE(std::ranges::search(storage_.content(), as_bytes(kPassphrase)).empty());
}

TEST_F(Luks1, LivesAtAnOffsetAndTouchesNothingElse) {
  constexpr uint64_t kOffset = 5 * 65536;
  const uint64_t size = luks1_header_bytes(quick_options());
  reactor_.run_until_done(storage_.write(0, random_bytes_of(random_, kOffset + size + 4096)));
  const std::vector<std::byte> before = storage_.content();
  const Luks1Volume made = format(storage_, quick_options(), kOffset);
  expect_same(unlock(storage_, kPassphrase, kOffset), made);
  expect_same(unlock(storage_, kPassphrase, kOffset, size), made);
  EXPECT_TRUE(std::equal(before.begin(), before.begin() + kOffset, storage_.content().begin()));
  EXPECT_TRUE(std::equal(before.end() - 4096, before.end(), storage_.content().end() - 4096));
  expect_error(ErrorKind::kCorrupt, "truncated",
               [&] { unlock(storage_, kPassphrase, kOffset, size - 4096); });
  expect_error(ErrorKind::kCorrupt, "too few", [&] { unlock(storage_, kPassphrase, kOffset, 591); });
  expect_error(ErrorKind::kCorrupt, "no LUKS header", [&] { unlock(storage_, kPassphrase, kOffset - 512); });
  expect_error(ErrorKind::kCorrupt, "offset 18446744073709551615",
               [&] { unlock(storage_, kPassphrase, UINT64_MAX); });
}

TEST_F(Luks1, RespectsTheStoragesAlignment) {
  for (const uint32_t alignment : {1u, 512u, 4096u}) {
    auto memory = std::make_unique<storage::MemoryDevice>();
    memory->mutable_limits().request_alignment = alignment;
    storage::MemoryDevice& inside = *memory;
    const std::unique_ptr<block::Device> storage = block::make_checked(std::move(memory));
    const Luks1Volume made = format(*storage, quick_options());
    expect_same(unlock(*storage), made);
    // A keyslot that starts off the alignment can be read all the same.
    auto& content = inside.content();
    Luks1Header header = made.header;
    header.keyslots[0].material_sector = 9;
    header.keyslots[1].material_sector = 509;
    std::ranges::rotate(content.begin() + 4096, content.begin() + 4096 + 256000,
                        content.begin() + 4096 + 256512);
    encode_luks1_header(header, Bytes(content).first(kLuks1HeaderBytes));
    EXPECT_TRUE(std::ranges::equal(unlock(*storage).volume_key.bytes(), made.volume_key.bytes()));
  }
  storage_.mutable_limits().request_alignment = 4096;
  expect_error(ErrorKind::kInvalidArgument, "aligned", [&] { format(storage_, quick_options(), 512); });
}

TEST_F(Luks1, NeedsRoomOnAStorageThatDoesNotGrow) {
  reactor_.run_until_done(storage_.resize(luks1_header_bytes(quick_options())));
  storage_.mutable_limits().growable = false;
  format(storage_, quick_options());
  expect_error(ErrorKind::kNoSpace, "volume.luks", [&] { format(storage_, quick_options(), 512); });
}

TEST_F(Luks1, AnyActiveKeyslotOpens) {
  const Luks1Volume made = format(storage_, quick_options());
  for (size_t slot = 1; slot < kLuks1Keyslots; ++slot) {
    // The keyslot moves: its description and its material.
    Luks1Header header = made.header;
    header.keyslots[slot] = made.header.keyslots[0];
    header.keyslots[slot].material_sector = made.header.keyslots[slot].material_sector;
    header.keyslots[0].active = false;
    std::copy_n(storage_.content().begin() + static_cast<ptrdiff_t>(made.header.material_offset_bytes(0)),
                made.header.material_bytes(),
                storage_.content().begin() + static_cast<ptrdiff_t>(header.material_offset_bytes(slot)));
    encode_luks1_header(header, Bytes(storage_.content()).first(kLuks1HeaderBytes));
    EXPECT_EQ(unlock(storage_).keyslot, slot);
    // Another active one before it, of another passphrase, is passed over.
    header.keyslots[0].active = true;
    header.keyslots[0].salt[0] ^= std::byte{1};
    encode_luks1_header(header, Bytes(storage_.content()).first(kLuks1HeaderBytes));
    EXPECT_EQ(unlock(storage_).keyslot, slot);
  }
}

TEST_F(Luks1, SaysWhyNothingOpens) {
  const Luks1Volume made = format(storage_, quick_options());
  Luks1Header header = made.header;
  header.keyslots[0].active = false;
  encode_luks1_header(header, Bytes(storage_.content()).first(kLuks1HeaderBytes));
  expect_error(ErrorKind::kWrongSecret, "no keyslot is active", [&] { unlock(storage_); });
  header = made.header;
  header.volume_key_digest[0] ^= std::byte{1};
  encode_luks1_header(header, Bytes(storage_.content()).first(kLuks1HeaderBytes));
  expect_error(ErrorKind::kWrongSecret, "none of the 1 active keyslots", [&] { unlock(storage_); });
  header.keyslots[0].material_sector = UINT32_MAX;
  expect_error(ErrorKind::kCorrupt, "beyond the end",
               [&] { reactor_.run_until_done(luks1_unlock(storage_, 0, header, as_bytes(kPassphrase))); });
}

TEST_F(Luks1, DamageToAnySectorOfTheMaterialShuts) {
  const Luks1Volume made = format(storage_, quick_options());
  for (int round = 0; round < 20; ++round) {
    const uint64_t at = made.header.material_offset_bytes(0) + random_() % made.header.material_bytes();
    storage_.content()[at] ^= std::byte{0x10};
    expect_error(ErrorKind::kWrongSecret, "passphrase", [&] { unlock(storage_); });
    storage_.content()[at] ^= std::byte{0x10};
  }
  expect_same(unlock(storage_), made);
}

TEST_F(Luks1, CanBeStopped) {
  format(storage_, quick_options());
  std::stop_source stop;
  stop.request_stop();
  expect_error(ErrorKind::kCancelled, "volume.luks", [&] {
    reactor_.run_until_done(luks1_unlock(storage_, 0, 0, as_bytes(kPassphrase), stop.get_token()));
  });
}

TEST_F(Luks1, IterationsFollowTheOptions) {
  const auto iterations = [&](std::optional<uint32_t> forced, int iter_time_ms) {
    Luks1CreateOptions options{.iter_time = std::chrono::milliseconds(iter_time_ms),
                               .forced_iterations = forced};
    const Luks1Header header = format(storage_, options).header;
    return std::pair(header.keyslots[0].iterations, header.volume_key_iterations);
  };
  EXPECT_EQ(iterations(1000, 2000), std::pair(1000u, 1000u));
  EXPECT_EQ(iterations(80000, 2000), std::pair(80000u, 10000u));
  EXPECT_EQ(iterations(std::nullopt, 0), std::pair(1000u, 1000u));
  const auto [slot, digest] = iterations(std::nullopt, 20);
  EXPECT_GE(slot, 1000u);
  EXPECT_GE(digest, 1000u);
  EXPECT_EQ(unlock(storage_).header.keyslots[0].iterations, slot);
}

TEST_F(Luks1, ParsesQemusOptionNames) {
  const Luks1CreateOptions standard = parse_luks1_options({});
  EXPECT_EQ(standard.cipher, crypto::CipherSpec{});
  EXPECT_EQ(standard.hash, crypto::DigestAlgorithm::sha256);
  EXPECT_EQ(standard.iter_time, std::chrono::milliseconds(2000));
  const Luks1CreateOptions other = parse_luks1_options({.cipher_alg = "serpent-128",
                                                        .cipher_mode = "cbc",
                                                        .ivgen_alg = "essiv",
                                                        .ivgen_hash_alg = "md5",
                                                        .hash_alg = "ripemd160"});
  EXPECT_EQ(other.cipher.to_string(), "serpent-128-cbc-essiv:md5");
  EXPECT_EQ(other.hash, crypto::DigestAlgorithm::ripemd160);
  using enum ErrorKind;
  expect_error(kInvalidArgument, "cipher-alg", [] { parse_luks1_options({.cipher_alg = "aes"}); });
  expect_error(kInvalidArgument, "cipher-mode", [] { parse_luks1_options({.cipher_mode = "XTS"}); });
  expect_error(kInvalidArgument, "ivgen-alg", [] { parse_luks1_options({.ivgen_alg = ""}); });
  expect_error(kInvalidArgument, "ivgen-hash-alg", [] { parse_luks1_options({.ivgen_hash_alg = "crc32"}); });
  expect_error(kInvalidArgument, "hash-alg", [] { parse_luks1_options({.hash_alg = "whirlpool"}); });
  expect_error(kInvalidArgument, "md5", [] { parse_luks1_options({.hash_alg = "md5"}); });
  expect_error(kInvalidArgument, "16 bytes", [] { parse_luks1_options({.cipher_alg = "cast5-128"}); });
  expect_error(kInvalidArgument, "20 bytes",
               [] { parse_luks1_options({.ivgen_alg = "essiv", .ivgen_hash_alg = "sha1"}); });
}

TEST_F(Luks1, RefusesOptionsThatCannotBe) {
  expect_error(ErrorKind::kInvalidArgument, "too few", [&] { format(storage_, {.forced_iterations = 999}); });
  expect_error(ErrorKind::kInvalidArgument, "negative",
               [&] { format(storage_, {.iter_time = std::chrono::milliseconds(-1)}); });
  EXPECT_EQ(storage_.length_bytes(), 0u);
}

// Power is lost after each operation in turn: what is left is no LUKS header, or one that the passphrase
// opens.
TEST_F(Luks1, ACrashLeavesNoHeaderOrOneThatOpens) {
  bool completed = false;
  int opened = 0;
  for (size_t operations = 0; !completed; ++operations) {
    storage::MemoryDevice memory(luks1_header_bytes(quick_options()));
    std::ranges::copy(random_bytes_of(random_, memory.length_bytes()), memory.content().begin());
    memory.start_recording();
    FailingDevice storage(memory, operations);
    try {
      format(storage, quick_options());
      completed = true;
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::kIo) << error.what();
    }
    for (int round = 0; round < 10; ++round) {
      const std::unique_ptr<storage::MemoryDevice> left = memory.after_power_loss(random_);
      try {
        unlock(*left);
        ++opened;
      } catch (const Error& error) {
        ASSERT_FALSE(completed) << error.what();
        ASSERT_EQ(error.kind(), ErrorKind::kCorrupt) << error.what();
      }
    }
  }
  EXPECT_GE(opened, 10);
}

}  // namespace
}  // namespace cofre::luks
