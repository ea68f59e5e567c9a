// The LUKS1 partition header: a codec without I/O (LUKS On-Disk Format Specification 1.2.3, section 2.1,
// figures 1 and 2; docs/format/luks1.md). Any lane; nothing here is secret.
//
// Sectors are 512 bytes and count from the first byte of the header. Integers on disk are big-endian.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/units.h"
#include "crypto/cipher_spec.h"
#include "crypto/digest.h"

namespace cofre::luks {

inline constexpr size_t kLuks1HeaderBytes = 592;
inline constexpr size_t kLuks1Keyslots = 8;
inline constexpr size_t kLuks1KeyslotBytes = 48;
inline constexpr uint32_t kLuks1Stripes =
    4000;  // of every keyslot: QEMU and cryptsetup refuse any other number
inline constexpr size_t kLuks1SaltBytes = 32;
inline constexpr size_t kLuks1DigestBytes = 20;
inline constexpr size_t kLuks1UuidBytes = 40;
// What writers put between keyslots: material starts at, and is padded to, multiples of 4 KiB.
inline constexpr uint32_t kLuks1AlignmentSectors = 8;

struct Luks1Keyslot {
  bool active = false;
  uint32_t iterations = 0;  // of PBKDF2; at least 1 when active
  std::array<std::byte, kLuks1SaltBytes> salt{};
  uint32_t material_sector = 0;
  uint32_t stripes = kLuks1Stripes;

  bool operator==(const Luks1Keyslot&) const = default;
};

struct Luks1Header {
  crypto::CipherSpec cipher{};  // its key_bytes() is the header's key-bytes
  crypto::DigestAlgorithm hash = crypto::DigestAlgorithm::sha256;
  uint32_t payload_sector = 0;
  std::array<std::byte, kLuks1DigestBytes> volume_key_digest{};
  std::array<std::byte, kLuks1SaltBytes> volume_key_salt{};
  uint32_t volume_key_iterations = 0;
  std::array<char, kLuks1UuidBytes> uuid{};  // as on disk: text that ends at the first NUL
  std::array<Luks1Keyslot, kLuks1Keyslots> keyslots{};

  size_t key_bytes() const noexcept { return cipher.key_bytes(); }
  // The payload is in another file, from its start. (So may be that of a header with another sector.)
  bool detached() const noexcept { return payload_sector == 0; }
  uint64_t payload_offset_bytes() const noexcept { return uint64_t{payload_sector} * kSectorBytes; }
  // A keyslot's material: stripes times the key, padded with its last sector.
  uint64_t material_bytes() const noexcept;
  uint64_t material_offset_bytes(size_t keyslot) const noexcept {
    return uint64_t{keyslots[keyslot].material_sector} * kSectorBytes;
  }
  // Fit for a terminal: what is not printable ASCII became '?'.
  std::string uuid_text() const;

  bool operator==(const Luks1Header&) const = default;
};

// Whether the bytes start with the magic of LUKS and version 1.
bool is_luks1(ConstBytes start) noexcept;

// The distance between the keyslots of a header made by cofre, QEMU or cryptsetup.
uint32_t luks1_keyslot_stride_sectors(size_t key_bytes) noexcept;

// A header with QEMU's layout: eight disabled keyslots one stride apart from sector 8 on, the payload after
// the last. The cipher and hash are the caller's to validate; digest, salts, UUID and iterations are left
// empty.
Luks1Header luks1_plan_header(const crypto::CipherSpec& cipher, crypto::DigestAlgorithm hash) noexcept;

// Writes the first kLuks1HeaderBytes of `out`, exactly that long.
void encode_luks1_header(const Luks1Header& header, Bytes out);

// One keyslot as it stands in the header: `out` has kLuks1KeyslotBytes, and goes luks1_keyslot_offset() bytes
// behind the header's start. A keyslot's state and iterations never lie in two sectors; the salt of number 6
// does.
void encode_luks1_keyslot(const Luks1Keyslot& keyslot, Bytes out) noexcept;
uint64_t luks1_keyslot_offset(size_t keyslot) noexcept;

// Reads and validates. `area_bytes` bounds the key material: the bytes there are from the header's start on.
// `where` begins the messages: "disk.luks, offset 0". Throws Error kCorrupt for what breaks the
// specification, kUnsupported for LUKS2, ciphers and hashes that Cofre lacks. A payload sector of 0 is a
// detached header's.
Luks1Header decode_luks1_header(ConstBytes in, uint64_t area_bytes, std::string_view where);

}  // namespace cofre::luks
