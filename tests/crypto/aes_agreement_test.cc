// Every kernel against OpenSSL's AES: all key lengths, modes and IV generators, sector sizes, run lengths and
// alignments, in place and apart, forwards and back, and not a byte beyond the ends.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "crypto/aes_sector_cipher.h"
#include "crypto/reference.h"
#include "crypto/support.h"

namespace cofre::crypto {
namespace {

using ByteVector = std::vector<std::byte>;

constexpr std::byte kCanary{0xa5};

// Bytes at a chosen distance from a 64-byte boundary, ending where the allocation ends.
class PlacedBytes {
 public:
  PlacedBytes(size_t misalignment, size_t size) : misalignment_(misalignment) {
    memory_ = static_cast<std::byte*>(::operator new(misalignment + size, std::align_val_t{64}));
    std::memset(memory_, static_cast<int>(kCanary), misalignment + size);
    bytes_ = {memory_ + misalignment, size};
  }
  PlacedBytes(const PlacedBytes&) = delete;
  PlacedBytes& operator=(const PlacedBytes&) = delete;
  ~PlacedBytes() { ::operator delete(memory_, std::align_val_t{64}); }

  Bytes bytes() { return bytes_; }
  bool front_untouched() const {
    return std::all_of(memory_, memory_ + misalignment_, [](std::byte b) { return b == kCanary; });
  }

 private:
  size_t misalignment_;
  std::byte* memory_;
  Bytes bytes_;
};

struct Case {
  const AesKernel* kernel;
  CipherSpec spec;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const AesKernel* kernel : kernels_here())
    for (const auto algorithm : {CipherAlgorithm::aes128, CipherAlgorithm::aes192, CipherAlgorithm::aes256})
      for (const auto mode : {CipherMode::xts, CipherMode::cbc}) {
        const auto add = [&](IvGenerator iv, DigestAlgorithm essiv_digest) {
          cases.push_back({kernel, {algorithm, mode, iv, essiv_digest}});
        };
        add(IvGenerator::plain, DigestAlgorithm::sha256);
        add(IvGenerator::plain64, DigestAlgorithm::sha256);
        add(IvGenerator::essiv, DigestAlgorithm::sha256);
        add(IvGenerator::essiv, DigestAlgorithm::md5);
      }
  return cases;
}

std::string case_name(const testing::TestParamInfo<Case>& info) {
  std::string name = std::string(info.param.kernel->name) + "_" + info.param.spec.to_string();
  std::ranges::replace_if(name, [](char c) { return c == '-' || c == ':'; }, '_');
  return name;
}

class AesAgreement : public testing::TestWithParam<Case> {
 protected:
  AesAgreement() : key_(random_bytes(random_, GetParam().spec.key_bytes())) {}

  std::unique_ptr<SectorCipher> cipher(uint32_t sector_bytes, uint32_t iv_units) const {
    return make_aes_sector_cipher(*GetParam().kernel, GetParam().spec, key_, sector_bytes, iv_units);
  }

  // `plain` and `text` correspond. Both ways, apart and in place.
  void expect_run(const SectorCipher& cipher, uint64_t first_sector, ConstBytes plain, ConstBytes text,
                  size_t source_misalignment, size_t destination_misalignment) {
    PlacedBytes source(source_misalignment, plain.size());
    PlacedBytes destination(destination_misalignment, plain.size());
    const auto sectors = plain.size() / cipher.sector_bytes();

    std::ranges::copy(plain, source.bytes().begin());
    const uint64_t before = GetParam().kernel->sectors_done();
    cipher.encrypt(first_sector, source.bytes(), destination.bytes());
    EXPECT_EQ(GetParam().kernel->sectors_done(), before + sectors);
    ASSERT_TRUE(std::ranges::equal(destination.bytes(), text)) << sectors << " sectors, encrypted";
    ASSERT_TRUE(std::ranges::equal(source.bytes(), plain)) << "the source changed";
    cipher.encrypt(first_sector, source.bytes(), source.bytes());
    ASSERT_TRUE(std::ranges::equal(source.bytes(), text)) << sectors << " sectors, encrypted in place";

    cipher.decrypt(first_sector, source.bytes(), destination.bytes());
    ASSERT_TRUE(std::ranges::equal(destination.bytes(), plain)) << sectors << " sectors, decrypted";
    ASSERT_TRUE(std::ranges::equal(source.bytes(), text)) << "the source changed";
    cipher.decrypt(first_sector, source.bytes(), source.bytes());
    ASSERT_TRUE(std::ranges::equal(source.bytes(), plain)) << sectors << " sectors, decrypted in place";
    EXPECT_TRUE(source.front_untouched());
    EXPECT_TRUE(destination.front_untouched());
  }

  uint64_t seed_ = test_seed();
  std::mt19937_64 random_{seed_};
  ByteVector key_;
};

TEST_P(AesAgreement, EveryRunLength) {
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed_));
  for (const auto& [sector_bytes, most_sectors] :
       {std::pair{512u, 72u}, {1024u, 37u}, {2048u, 21u}, {4096u, 18u}}) {
    const uint32_t iv_units = random_() % 2 == 0 ? 1 : sector_bytes / 512;
    const uint64_t first = random_();
    const ByteVector plain = random_bytes(random_, most_sectors * sector_bytes);
    const ByteVector text = reference_encrypt(GetParam().spec, key_, sector_bytes, iv_units, first, plain);
    const auto made = cipher(sector_bytes, iv_units);
    for (size_t sectors = 1; sectors <= most_sectors; ++sectors) {
      const size_t bytes = sectors * sector_bytes;
      expect_run(*made, first, ConstBytes(plain).first(bytes), ConstBytes(text).first(bytes), random_() % 64,
                 random_() % 64);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(AesAgreement, EveryAlignment) {
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed_));
  constexpr size_t kSectors = 19;  // the kernels' full width and a rest
  const ByteVector plain = random_bytes(random_, kSectors * 512);
  const uint64_t first = random_();
  const ByteVector text = reference_encrypt(GetParam().spec, key_, 512, 1, first, plain);
  const auto made = cipher(512, 1);
  for (size_t source = 0; source < 64; ++source)
    for (const size_t destination : {size_t{0}, source, random_() % 64}) {
      expect_run(*made, first, plain, text, source, destination);
      if (HasFatalFailure()) return;
    }
}

TEST_P(AesAgreement, LongRun) {
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed_));
  // Longer than a batch of IVs, and past the wrap of the 32-bit number of `plain`.
  const size_t sectors = 300 + random_() % 200;
  const uint64_t first = UINT32_MAX - random_() % 200;
  const ByteVector plain = random_bytes(random_, sectors * 512);
  const ByteVector text = reference_encrypt(GetParam().spec, key_, 512, 1, first, plain);
  expect_run(*cipher(512, 1), first, plain, text, random_() % 64, random_() % 64);
}

TEST_P(AesAgreement, SectorNumbersWrap) {
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed_));
  const ByteVector plain = random_bytes(random_, 9 * 4096);
  const ByteVector text = reference_encrypt(GetParam().spec, key_, 4096, 8, UINT64_MAX - 20, plain);
  expect_run(*cipher(4096, 8), UINT64_MAX - 20, plain, text, 0, 0);
}

INSTANTIATE_TEST_SUITE_P(All, AesAgreement, testing::ValuesIn(all_cases()), case_name);

// Pages between unreadable ones: whatever reads or writes a byte too far is stopped, intrinsics and assembly
// included.
class FencedPages {
 public:
  explicit FencedPages(size_t bytes) : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))), size_(bytes) {
    void* memory = mmap(nullptr, size_ + 2 * page_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    start_ = static_cast<std::byte*>(memory) + page_;
    if (mprotect(start_, size_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  }
  FencedPages(const FencedPages&) = delete;
  FencedPages& operator=(const FencedPages&) = delete;
  ~FencedPages() { munmap(start_ - page_, size_ + 2 * page_); }
  Bytes first(size_t bytes) { return {start_, bytes}; }
  Bytes last(size_t bytes) { return {start_ + size_ - bytes, bytes}; }

 private:
  size_t page_;
  size_t size_;
  std::byte* start_;
};

class AesFences : public testing::TestWithParam<const AesKernel*> {};

TEST_P(AesFences, NothingBeyondTheEnds) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  constexpr size_t kMostSectors = 40;
  FencedPages source(kMostSectors * 512);
  FencedPages destination(kMostSectors * 512);
  for (const auto mode : {CipherMode::xts, CipherMode::cbc}) {
    const CipherSpec spec{CipherAlgorithm::aes256, mode, IvGenerator::plain64, DigestAlgorithm::sha256};
    const auto cipher =
        make_aes_sector_cipher(*GetParam(), spec, random_bytes(random, spec.key_bytes()), 512, 1);
    for (size_t sectors = 1; sectors <= kMostSectors; ++sectors)
      for (const bool at_end : {false, true}) {
        const size_t bytes = sectors * 512;
        const Bytes from = at_end ? source.last(bytes) : source.first(bytes);
        const Bytes to = at_end ? destination.last(bytes) : destination.first(bytes);
        const ByteVector plain = random_bytes(random, bytes);
        std::ranges::copy(plain, from.begin());
        cipher->encrypt(sectors, from, to);
        cipher->decrypt(sectors, to, to);
        ASSERT_TRUE(std::ranges::equal(to, plain));
      }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, AesFences, testing::ValuesIn(kernels_here()),
                         [](const auto& kernel) { return std::string(kernel.param->name); });

// Blocks on their own, each number of them, against OpenSSL.
class AesBlocks : public testing::TestWithParam<const AesKernel*> {};

TEST_P(AesBlocks, EveryCount) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE("COFRE_TEST_SEED=" + std::to_string(seed));
  std::mt19937_64 random(seed);
  for (const auto algorithm : {CipherAlgorithm::aes128, CipherAlgorithm::aes192, CipherAlgorithm::aes256}) {
    const ByteVector key = random_bytes(random, cipher_key_bytes(algorithm));
    const ReferenceCipher reference = reference_cipher(algorithm, key);
    alignas(64) std::byte schedule[kMaxAesScheduleBytes];
    ASSERT_LE(GetParam()->schedule_bytes, sizeof schedule);
    GetParam()->expand_key(octets(key.data()), key.size(), schedule);
    for (size_t blocks = 1; blocks <= 130; ++blocks) {
      PlacedBytes text(random() % 64, blocks * 16);
      const ByteVector plain = random_bytes(random, blocks * 16);
      std::ranges::copy(plain, text.bytes().begin());
      GetParam()->encrypt_blocks(schedule, octets(text.bytes().data()), octets(text.bytes().data()), blocks);
      ASSERT_TRUE(std::ranges::equal(text.bytes(), reference.encrypt(plain))) << blocks << " blocks";
      EXPECT_TRUE(text.front_untouched());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, AesBlocks, testing::ValuesIn(kernels_here()),
                         [](const auto& kernel) { return std::string(kernel.param->name); });

}  // namespace
}  // namespace cofre::crypto
