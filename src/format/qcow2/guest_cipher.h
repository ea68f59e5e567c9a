// The cipher of an image's guest data, and which sector number it goes by.
#pragma once

#include <memory>

#include "base/units.h"
#include "crypto/sector_cipher.h"
#include "format/qcow2/header.h"

namespace cofre::qcow2 {

// Method aes numbers sectors by their place in the guest, method luks by their place in the host file; both
// in units of 512 bytes (checked by experiment: see docs/format/qcow2.md). Thread-safe.
class GuestCipher {
 public:
  GuestCipher() = default;
  GuestCipher(CryptMethod method, std::unique_ptr<crypto::SectorCipher> cipher)
      : by_host_(method == CryptMethod::kLuks), cipher_(std::move(cipher)) {}

  explicit operator bool() const noexcept { return cipher_ != nullptr; }
  std::string_view implementation() const { return cipher_ ? cipher_->implementation() : std::string_view(); }

  void encrypt(GuestOffset guest, HostOffset host, ConstBytes source, Bytes destination) const {
    cipher_->encrypt(sector(guest, host), source, destination);
  }
  void decrypt(GuestOffset guest, HostOffset host, Bytes in_place) const {
    cipher_->decrypt(sector(guest, host), in_place, in_place);
  }

 private:
  uint64_t sector(GuestOffset guest, HostOffset host) const noexcept {
    return (by_host_ ? host.bytes : guest.bytes) / kSectorBytes;
  }

  bool by_host_ = false;
  std::unique_ptr<crypto::SectorCipher> cipher_;
};

}  // namespace cofre::qcow2
