#include "crypto/nettle_sector_cipher.h"

#include <nettle/cbc.h>
#include <nettle/ctr.h>
#include <nettle/twofish.h>
#include <nettle/xts.h>

#include <array>
#include <string>

#include "crypto/secret.h"
#include "crypto/sector_iv.h"

namespace cofre::crypto {
namespace {

// nettle's own table of the cipher, in memory for secrets.
SecretBytes expand(ConstBytes key) {
  SecretBytes context(sizeof(twofish_ctx));
  twofish_set_key(reinterpret_cast<twofish_ctx*>(context.data()), key.size(),
                  reinterpret_cast<const uint8_t*>(key.data()));
  return context;
}

void encrypt_blocks(const void* context, size_t bytes, uint8_t* to, const uint8_t* from) {
  twofish_encrypt(static_cast<const twofish_ctx*>(context), bytes, to, from);
}

void decrypt_blocks(const void* context, size_t bytes, uint8_t* to, const uint8_t* from) {
  twofish_decrypt(static_cast<const twofish_ctx*>(context), bytes, to, from);
}

class NettleSectorCipher final : public SectorCipher {
 public:
  NettleSectorCipher(const CipherSpec& spec, ConstBytes key, uint32_t sector_bytes,
                     uint32_t iv_units_per_sector)
      : SectorCipher(spec, sector_bytes, iv_units_per_sector), implementation_(spec.to_string() + " nettle") {
    const size_t half = cipher_key_bytes(spec.algorithm);
    cipher_ = expand(key.first(half));
    if (spec.mode == CipherMode::xts) tweak_cipher_ = expand(key.last(half));
    if (spec.mode != CipherMode::ecb && spec.iv == IvGenerator::essiv) {
      SecretBytes hashed(digest_bytes(spec.essiv_digest));
      digest(spec.essiv_digest, key, hashed.bytes());
      essiv_cipher_ = expand(hashed.bytes());
    }
  }

  std::string_view implementation() const override { return implementation_; }

 private:
  using Iv = std::array<uint8_t, TWOFISH_BLOCK_SIZE>;

  void encrypt_sectors(uint64_t first_sector, const std::byte* source, std::byte* destination,
                       size_t sectors) const override {
    each_sector(true, first_sector, source, destination, sectors);
  }
  void decrypt_sectors(uint64_t first_sector, const std::byte* source, std::byte* destination,
                       size_t sectors) const override {
    each_sector(false, first_sector, source, destination, sectors);
  }

  void each_sector(bool encrypt, uint64_t first_sector, const std::byte* source, std::byte* destination,
                   size_t sectors) const {
    for (size_t i = 0; i < sectors; ++i) {
      const size_t at = i * sector_bytes();
      const Iv iv = iv_of(first_sector + i * iv_units_per_sector());
      one_sector(encrypt, iv, reinterpret_cast<const uint8_t*>(source + at),
                 reinterpret_cast<uint8_t*>(destination + at));
    }
  }

  Iv iv_of(uint64_t number) const {
    Iv iv{};
    fill_sector_ivs(spec().iv, number, 0, 1, iv.size(), iv.data());
    if (!essiv_cipher_.empty()) encrypt_blocks(essiv_cipher_.data(), iv.size(), iv.data(), iv.data());
    return iv;
  }

  void one_sector(bool encrypt, Iv iv, const uint8_t* from, uint8_t* to) const {
    const void* cipher = cipher_.data();
    const size_t bytes = sector_bytes();
    switch (spec().mode) {
      case CipherMode::ecb:
        return encrypt ? encrypt_blocks(cipher, bytes, to, from) : decrypt_blocks(cipher, bytes, to, from);
      case CipherMode::cbc:
        return encrypt ? cbc_encrypt(cipher, encrypt_blocks, iv.size(), iv.data(), bytes, to, from)
                       : cbc_decrypt(cipher, decrypt_blocks, iv.size(), iv.data(), bytes, to, from);
      case CipherMode::ctr:
        return ctr_crypt(cipher, encrypt_blocks, iv.size(), iv.data(), bytes, to, from);
      case CipherMode::xts:
        return encrypt ? xts_encrypt_message(cipher, tweak_cipher_.data(), encrypt_blocks, iv.data(), bytes,
                                             to, from)
                       : xts_decrypt_message(cipher, tweak_cipher_.data(), decrypt_blocks, encrypt_blocks,
                                             iv.data(), bytes, to, from);
    }
  }

  std::string implementation_;
  SecretBytes cipher_;
  SecretBytes tweak_cipher_;  // XTS only
  SecretBytes essiv_cipher_;  // ESSIV only
};

}  // namespace

std::unique_ptr<SectorCipher> make_nettle_sector_cipher(const CipherSpec& spec, ConstBytes key,
                                                        uint32_t sector_bytes, uint32_t iv_units_per_sector) {
  return std::make_unique<NettleSectorCipher>(spec, key, sector_bytes, iv_units_per_sector);
}

}  // namespace cofre::crypto
