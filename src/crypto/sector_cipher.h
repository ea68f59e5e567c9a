// A cipher over runs of sectors: the one thing that formats call to encrypt and decrypt.
//
// Work in runs of a cluster or a megabyte, not sector by sector: IVs of many sectors are computed together,
// and CBC encryption, serial inside a sector, runs many sectors side by side.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "base/bytes.h"
#include "crypto/cipher_spec.h"

namespace cofre::crypto {

// Any lane, any number of threads at once.
class SectorCipher {
 public:
  // `key` is exactly spec.key_bytes() long. `sector_bytes` is 512, 1024, 2048 or 4096. Sector i of a run has
  // the IV number first_sector + i * iv_units_per_sector (8 with 4096-byte sectors numbered in units of 512).
  // Throws Error kInvalidArgument or kUnsupported, also for a COFRE_AES that names no kernel this CPU runs.
  static std::unique_ptr<SectorCipher> create(const CipherSpec& spec, ConstBytes key,
                                              uint32_t sector_bytes = 512, uint32_t iv_units_per_sector = 1);

  virtual ~SectorCipher() = default;
  SectorCipher(const SectorCipher&) = delete;
  SectorCipher& operator=(const SectorCipher&) = delete;

  // Whole sectors: source and destination are equally long, a multiple of sector_bytes. Destination is
  // exactly the source (in place) or does not overlap it. Anything else throws Error kInvalidArgument and
  // changes nothing. IV numbers wrap at 2^64.
  void encrypt(uint64_t first_sector, ConstBytes source, Bytes destination) const;
  void decrypt(uint64_t first_sector, ConstBytes source, Bytes destination) const;

  // What computes it: "aes-256-xts-plain64 vaes512", "serpent-256-xts-plain64 libgcrypt".
  virtual std::string_view implementation() const = 0;

  const CipherSpec& spec() const noexcept { return spec_; }
  uint32_t sector_bytes() const noexcept { return sector_bytes_; }
  uint32_t iv_units_per_sector() const noexcept { return iv_units_per_sector_; }

 protected:
  SectorCipher(const CipherSpec& spec, uint32_t sector_bytes, uint32_t iv_units_per_sector)
      : spec_(spec), sector_bytes_(sector_bytes), iv_units_per_sector_(iv_units_per_sector) {}

 private:
  virtual void encrypt_sectors(uint64_t first_sector, const std::byte* source, std::byte* destination,
                               size_t sectors) const = 0;
  virtual void decrypt_sectors(uint64_t first_sector, const std::byte* source, std::byte* destination,
                               size_t sectors) const = 0;

  CipherSpec spec_;
  uint32_t sector_bytes_;
  uint32_t iv_units_per_sector_;
};

}  // namespace cofre::crypto
