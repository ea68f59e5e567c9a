#include "crypto/sector_cipher.h"

#include <functional>

#include "base/error.h"
#include "crypto/aes/select.h"
#include "crypto/aes_sector_cipher.h"
#include "crypto/gcrypt_sector_cipher.h"
#include "crypto/nettle_sector_cipher.h"

namespace cofre::crypto {
namespace {

bool is_aes(CipherAlgorithm algorithm) {
  return algorithm == CipherAlgorithm::aes128 || algorithm == CipherAlgorithm::aes192 ||
         algorithm == CipherAlgorithm::aes256;
}

// The number of sectors of a run.
size_t check_run(const SectorCipher& cipher, ConstBytes source, Bytes destination) {
  if (source.size() != destination.size() || source.size() % cipher.sector_bytes() != 0)
    fail(ErrorKind::kInvalidArgument, "{} bytes into {} bytes is not a run of whole {}-byte sectors",
         source.size(), destination.size(), cipher.sector_bytes());
  const std::byte* from = source.data();
  const std::byte* to = destination.data();
  const std::less<> before;
  if (from != to && before(from, to + destination.size()) && before(to, from + source.size()))
    fail(ErrorKind::kInvalidArgument, "source and destination of a run of sectors overlap in part");
  return source.size() / cipher.sector_bytes();
}

}  // namespace

std::unique_ptr<SectorCipher> SectorCipher::create(const CipherSpec& spec, ConstBytes key,
                                                   uint32_t sector_bytes, uint32_t iv_units_per_sector) {
  spec.validate();
  if (key.size() != spec.key_bytes())
    fail(ErrorKind::kInvalidArgument, "cipher {} takes a key of {} bytes, not {}", spec.to_string(),
         spec.key_bytes(), key.size());
  if (sector_bytes != 512 && sector_bytes != 1024 && sector_bytes != 2048 && sector_bytes != 4096)
    fail(ErrorKind::kInvalidArgument, "a cipher's sector is 512, 1024, 2048 or 4096 bytes, not {}",
         sector_bytes);
  const bool kernel_mode = spec.mode == CipherMode::xts || spec.mode == CipherMode::cbc;
  if (is_aes(spec.algorithm) && kernel_mode)
    return make_aes_sector_cipher(selected_aes_kernel(), spec, key, sector_bytes, iv_units_per_sector);
  if (spec.algorithm == CipherAlgorithm::twofish192)
    return make_nettle_sector_cipher(spec, key, sector_bytes, iv_units_per_sector);
  return make_gcrypt_sector_cipher(spec, key, sector_bytes, iv_units_per_sector);
}

void SectorCipher::encrypt(uint64_t first_sector, ConstBytes source, Bytes destination) const {
  const size_t sectors = check_run(*this, source, destination);
  if (sectors != 0) encrypt_sectors(first_sector, source.data(), destination.data(), sectors);
}

void SectorCipher::decrypt(uint64_t first_sector, ConstBytes source, Bytes destination) const {
  const size_t sectors = check_run(*this, source, destination);
  if (sectors != 0) decrypt_sectors(first_sector, source.data(), destination.data(), sectors);
}

}  // namespace cofre::crypto
