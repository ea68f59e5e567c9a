#include "crypto/aes_sector_cipher.h"

#include <algorithm>
#include <array>
#include <string>

#include "crypto/secret.h"
#include "crypto/sector_iv.h"

namespace cofre::crypto {
namespace {

// Sectors whose IVs are computed together: enough to hide the latency of AES, few enough for the first-level
// cache.
constexpr size_t kBatchSectors = 128;

const uint8_t* as_octets(const std::byte* bytes) {
  return reinterpret_cast<const uint8_t*>(bytes);
}
uint8_t* as_octets(std::byte* bytes) {
  return reinterpret_cast<uint8_t*>(bytes);
}

SecretBytes expand(const AesKernel& kernel, ConstBytes key) {
  SecretBytes schedule(kernel.schedule_bytes);
  kernel.expand_key(as_octets(key.data()), key.size(), schedule.data());
  return schedule;
}

// The schedule of the cipher whose key is the digest of the whole key.
SecretBytes expand_essiv(const AesKernel& kernel, DigestAlgorithm algorithm, ConstBytes key) {
  SecretBytes hashed(digest_bytes(algorithm));
  digest(algorithm, key, hashed.bytes());
  return expand(kernel, hashed.bytes());
}

class AesSectorCipher final : public SectorCipher {
 public:
  AesSectorCipher(const AesKernel& kernel, const CipherSpec& spec, ConstBytes key, uint32_t sector_bytes,
                  uint32_t iv_units_per_sector)
      : SectorCipher(spec, sector_bytes, iv_units_per_sector),
        kernel_(kernel),
        implementation_(spec.to_string() + " " + std::string(kernel.name)) {
    const bool xts = spec.mode == CipherMode::xts;
    const size_t half = cipher_key_bytes(spec.algorithm);
    data_schedule_ = expand(kernel, key.first(half));
    if (xts) tweak_schedule_ = expand(kernel, key.last(half));
    if (spec.iv == IvGenerator::essiv) essiv_schedule_ = expand_essiv(kernel, spec.essiv_digest, key);
    encrypt_run_ = xts ? kernel.xts_encrypt : kernel.cbc_encrypt;
    decrypt_run_ = xts ? kernel.xts_decrypt : kernel.cbc_decrypt;
  }

  std::string_view implementation() const override { return implementation_; }

 private:
  using RunFunction = void (*)(const void* schedule, const AesRun& run);

  void encrypt_sectors(uint64_t first_sector, const std::byte* source, std::byte* destination,
                       size_t sectors) const override {
    in_batches(encrypt_run_, first_sector, as_octets(source), as_octets(destination), sectors);
  }
  void decrypt_sectors(uint64_t first_sector, const std::byte* source, std::byte* destination,
                       size_t sectors) const override {
    in_batches(decrypt_run_, first_sector, as_octets(source), as_octets(destination), sectors);
  }

  void in_batches(RunFunction function, uint64_t first_sector, const uint8_t* source, uint8_t* destination,
                  size_t sectors) const {
    alignas(64) std::array<uint8_t, kBatchSectors * kAesBlockBytes> ivs;
    while (sectors > 0) {
      const size_t batch = std::min(sectors, kBatchSectors);
      fill_ivs(first_sector, batch, ivs.data());
      function(data_schedule_.data(), AesRun{source, destination, ivs.data(), batch, sector_bytes()});
      first_sector += batch * iv_units_per_sector();
      source += batch * sector_bytes();
      destination += batch * sector_bytes();
      sectors -= batch;
    }
  }

  void fill_ivs(uint64_t first_sector, size_t count, uint8_t* ivs) const {
    fill_sector_ivs(spec().iv, first_sector, iv_units_per_sector(), count, kAesBlockBytes, ivs);
    if (!essiv_schedule_.empty()) kernel_.encrypt_blocks(essiv_schedule_.data(), ivs, ivs, count);
    if (!tweak_schedule_.empty()) kernel_.encrypt_blocks(tweak_schedule_.data(), ivs, ivs, count);
  }

  const AesKernel& kernel_;
  std::string implementation_;
  SecretBytes data_schedule_;
  SecretBytes tweak_schedule_;  // XTS only
  SecretBytes essiv_schedule_;  // ESSIV only
  RunFunction encrypt_run_ = nullptr;
  RunFunction decrypt_run_ = nullptr;
};

}  // namespace

std::unique_ptr<SectorCipher> make_aes_sector_cipher(const AesKernel& kernel, const CipherSpec& spec,
                                                     ConstBytes key, uint32_t sector_bytes,
                                                     uint32_t iv_units_per_sector) {
  return std::make_unique<AesSectorCipher>(kernel, spec, key, sector_bytes, iv_units_per_sector);
}

}  // namespace cofre::crypto
