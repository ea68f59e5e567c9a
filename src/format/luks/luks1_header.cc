#include "format/luks/luks1_header.h"

#include <algorithm>
#include <optional>

#include "base/checked.h"
#include "base/error.h"

namespace cofre::luks {
namespace {

constexpr std::array<std::byte, 6> kMagic = {std::byte{'L'}, std::byte{'U'},  std::byte{'K'},
                                             std::byte{'S'}, std::byte{0xba}, std::byte{0xbe}};
constexpr uint16_t kVersion = 1;
constexpr uint32_t kKeyslotActive = 0x00ac71f3;
constexpr uint32_t kKeyslotDisabled = 0x0000dead;

// Offsets of the header's fields, in bytes.
namespace at {
constexpr size_t kVersion = 6;
constexpr size_t kCipherName = 8;
constexpr size_t kCipherMode = 40;
constexpr size_t kHashSpec = 72;
constexpr size_t kPayloadSector = 104;
constexpr size_t kKeyBytes = 108;
constexpr size_t kDigest = 112;
constexpr size_t kDigestSalt = 132;
constexpr size_t kDigestIterations = 164;
constexpr size_t kUuid = 168;
constexpr size_t kKeyslots = 208;
}  // namespace at
constexpr size_t kNameBytes = 32;  // of cipher-name, cipher-mode and hash-spec

// Offsets within a keyslot.
namespace slot_at {
constexpr size_t kState = 0;
constexpr size_t kIterations = 4;
constexpr size_t kSalt = 8;
constexpr size_t kMaterialSector = 40;
constexpr size_t kStripes = 44;
}  // namespace slot_at

static_assert(at::kCipherMode == at::kCipherName + kNameBytes &&
              at::kHashSpec == at::kCipherMode + kNameBytes);
static_assert(at::kPayloadSector == at::kHashSpec + kNameBytes);
static_assert(at::kDigestSalt == at::kDigest + kLuks1DigestBytes);
static_assert(at::kDigestIterations == at::kDigestSalt + kLuks1SaltBytes);
static_assert(at::kKeyslots == at::kUuid + kLuks1UuidBytes);
static_assert(slot_at::kMaterialSector == slot_at::kSalt + kLuks1SaltBytes);
static_assert(kLuks1HeaderBytes == at::kKeyslots + kLuks1Keyslots * kLuks1KeyslotBytes);

// Longer keys than any cipher here takes; it keeps the products below in range.
constexpr uint32_t kMaxKeyBytes = 512;

uint64_t material_sectors(size_t key_bytes) noexcept {
  return div_ceil(uint64_t{key_bytes} * kLuks1Stripes, kSectorBytes);
}

template <size_t N>
void copy_out(const std::array<std::byte, N>& from, std::byte* to) noexcept {
  std::memcpy(to, from.data(), N);
}

void store_text(std::string_view text, std::byte* field) noexcept {
  std::memcpy(field, text.data(), std::min(text.size(), kNameBytes - 1));
}

bool is_printable(char c) noexcept {
  return c >= 0x20 && c < 0x7f;
}

// The field's text in lower case: cryptsetup compares without regard to case, and stores names as they were
// typed.
std::string load_text(const std::byte* field, std::string_view what, std::string_view where) {
  const auto* chars = reinterpret_cast<const char*>(field);
  const char* end = std::find(chars, chars + kNameBytes, '\0');
  if (end == chars + kNameBytes)
    fail(ErrorKind::kCorrupt, "{}: the LUKS {} does not end in a zero byte", where, what);
  std::string text(chars, end);
  if (!std::ranges::all_of(text, is_printable)) {
    fail(ErrorKind::kCorrupt, "{}: the LUKS {} holds bytes that are not printable", where, what);
  }
  std::ranges::transform(text, text.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return text;
}

void check_magic(ConstBytes in, std::string_view where) {
  if (in.size() < kLuks1HeaderBytes) {
    fail(ErrorKind::kCorrupt, "{}: {} bytes are too few for a LUKS1 header, which has {}", where, in.size(),
         kLuks1HeaderBytes);
  }
  if (!std::equal(kMagic.begin(), kMagic.end(), in.begin())) {
    fail(ErrorKind::kCorrupt, "{}: there is no LUKS header here (its magic is missing)", where);
  }
  const uint16_t version = load_be<uint16_t>(in.data() + at::kVersion);
  if (version != kVersion) {
    fail(ErrorKind::kUnsupported, "{}: LUKS version {} is not supported here, only version 1", where,
         version);
  }
}

// QEMU writes the hash of its option ivgen-hash-alg behind plain and plain64 too ("xts-plain64:sha256"),
// where it has no meaning. It must be a known one all the same: QEMU refuses others.
std::string_view without_idle_iv_hash(std::string_view mode) {
  const size_t colon = mode.find(':');
  if (colon == std::string_view::npos) return mode;
  const std::string_view before = mode.substr(0, colon);
  if (!before.ends_with("-plain") && !before.ends_with("-plain64")) return mode;
  if (!crypto::parse_digest(mode.substr(colon + 1))) {
    fail(ErrorKind::kUnsupported, "the hash in the LUKS cipher mode \"{}\" is not supported", mode);
  }
  return before;
}

crypto::CipherSpec decode_cipher(ConstBytes in, std::string_view where) {
  const std::string name = load_text(in.data() + at::kCipherName, "cipher name", where);
  const std::string mode = load_text(in.data() + at::kCipherMode, "cipher mode", where);
  const uint32_t key_bytes = load_be<uint32_t>(in.data() + at::kKeyBytes);
  if (key_bytes == 0 || key_bytes > kMaxKeyBytes) {
    fail(ErrorKind::kCorrupt, "{}: the LUKS key length of {} bytes is out of range", where, key_bytes);
  }
  try {
    return crypto::parse_luks_cipher(name, without_idle_iv_hash(mode), key_bytes);
  } catch (const Error& error) {
    // What is a wrong argument elsewhere is a header that contradicts itself here.
    if (error.kind() == ErrorKind::kInvalidArgument)
      throw_error(ErrorKind::kCorrupt, fmt::format("{}: {}", where, error.what()));
    throw error.with_context(std::string(where));
  }
}

crypto::DigestAlgorithm decode_hash(ConstBytes in, std::string_view where) {
  const std::string name = load_text(in.data() + at::kHashSpec, "hash name", where);
  const std::optional<crypto::DigestAlgorithm> hash = crypto::parse_digest(name);
  if (!hash) fail(ErrorKind::kUnsupported, "{}: the LUKS hash \"{}\" is not supported", where, name);
  return *hash;
}

Luks1Keyslot decode_keyslot(const std::byte* in, size_t index, std::string_view where) {
  Luks1Keyslot slot;
  const uint32_t state = load_be<uint32_t>(in + slot_at::kState);
  if (state != kKeyslotActive && state != kKeyslotDisabled) {
    fail(ErrorKind::kCorrupt, "{}: keyslot {} is neither active nor disabled (state {:#010x})", where, index,
         state);
  }
  slot.active = state == kKeyslotActive;
  slot.iterations = load_be<uint32_t>(in + slot_at::kIterations);
  if (slot.active && slot.iterations == 0) {
    fail(ErrorKind::kCorrupt, "{}: keyslot {} is active with an iteration count of zero", where, index);
  }
  std::memcpy(slot.salt.data(), in + slot_at::kSalt, kLuks1SaltBytes);
  slot.material_sector = load_be<uint32_t>(in + slot_at::kMaterialSector);
  slot.stripes = load_be<uint32_t>(in + slot_at::kStripes);
  if (slot.stripes != kLuks1Stripes) {
    fail(ErrorKind::kCorrupt, "{}: keyslot {} has {} anti-forensic stripes; LUKS1 has {}", where, index,
         slot.stripes, kLuks1Stripes);
  }
  return slot;
}

// The material of every keyslot lies between the header and the payload, within the area, and apart from the
// others.
void check_layout(const Luks1Header& header, uint64_t area_bytes, std::string_view where) {
  const uint64_t sectors = material_sectors(header.key_bytes());
  for (size_t i = 0; i < kLuks1Keyslots; ++i) {
    const uint64_t start = header.keyslots[i].material_sector;
    if (start * kSectorBytes < kLuks1HeaderBytes) {
      fail(ErrorKind::kCorrupt, "{}: the material of keyslot {} (sector {}) overlaps the header", where, i,
           start);
    }
    if (!header.detached() && start + sectors > header.payload_sector) {
      fail(ErrorKind::kCorrupt,
           "{}: the material of keyslot {} (sectors {} to {}) overlaps the payload at sector {}", where, i,
           start, start + sectors - 1, header.payload_sector);
    }
    if (!range_within(start * kSectorBytes, sectors * kSectorBytes, area_bytes)) {
      fail(ErrorKind::kCorrupt,
           "{}: the material of keyslot {} (sectors {} to {}) lies beyond the {} bytes that are there: the "
           "file is "
           "truncated",
           where, i, start, start + sectors - 1, area_bytes);
    }
    for (size_t j = 0; j < i; ++j) {
      const uint64_t other = header.keyslots[j].material_sector;
      if (start < other + sectors && other < start + sectors) {
        fail(ErrorKind::kCorrupt, "{}: the materials of keyslots {} and {} (sectors {} and {}) overlap",
             where, j, i, other, start);
      }
    }
  }
}

}  // namespace

uint64_t Luks1Header::material_bytes() const noexcept {
  return material_sectors(key_bytes()) * kSectorBytes;
}

std::string Luks1Header::uuid_text() const {
  std::string text(uuid.begin(), std::find(uuid.begin(), uuid.end(), '\0'));
  std::ranges::replace_if(text, [](char c) { return !is_printable(c); }, '?');
  return text;
}

bool is_luks1(ConstBytes start) noexcept {
  return start.size() >= at::kCipherName && std::equal(kMagic.begin(), kMagic.end(), start.begin()) &&
         load_be<uint16_t>(start.data() + at::kVersion) == kVersion;
}

uint32_t luks1_keyslot_stride_sectors(size_t key_bytes) noexcept {
  return static_cast<uint32_t>(align_up(material_sectors(key_bytes), kLuks1AlignmentSectors));
}

Luks1Header luks1_plan_header(const crypto::CipherSpec& cipher, crypto::DigestAlgorithm hash) noexcept {
  Luks1Header header{.cipher = cipher, .hash = hash};
  const uint32_t stride = luks1_keyslot_stride_sectors(header.key_bytes());
  uint32_t sector = kLuks1AlignmentSectors;
  for (Luks1Keyslot& slot : header.keyslots) {
    slot.material_sector = sector;
    sector += stride;
  }
  header.payload_sector = sector;
  return header;
}

void encode_luks1_keyslot(const Luks1Keyslot& keyslot, Bytes out) noexcept {
  std::byte* const base = out.data();
  store_be<uint32_t>(base + slot_at::kState, keyslot.active ? kKeyslotActive : kKeyslotDisabled);
  store_be<uint32_t>(base + slot_at::kIterations, keyslot.iterations);
  copy_out(keyslot.salt, base + slot_at::kSalt);
  store_be<uint32_t>(base + slot_at::kMaterialSector, keyslot.material_sector);
  store_be<uint32_t>(base + slot_at::kStripes, keyslot.stripes);
}

uint64_t luks1_keyslot_offset(size_t keyslot) noexcept {
  return at::kKeyslots + keyslot * kLuks1KeyslotBytes;
}

void encode_luks1_header(const Luks1Header& header, Bytes out) {
  if (out.size() != kLuks1HeaderBytes) {
    fail(ErrorKind::kInvalidArgument, "a LUKS1 header has {} bytes, not {}", kLuks1HeaderBytes, out.size());
  }
  std::ranges::fill(out, std::byte{0});
  std::byte* const base = out.data();
  copy_out(kMagic, base);
  store_be<uint16_t>(base + at::kVersion, kVersion);
  store_text(crypto::luks_cipher_name(header.cipher), base + at::kCipherName);
  store_text(crypto::luks_cipher_mode(header.cipher), base + at::kCipherMode);
  store_text(crypto::digest_name(header.hash), base + at::kHashSpec);
  store_be<uint32_t>(base + at::kPayloadSector, header.payload_sector);
  store_be<uint32_t>(base + at::kKeyBytes, static_cast<uint32_t>(header.key_bytes()));
  copy_out(header.volume_key_digest, base + at::kDigest);
  copy_out(header.volume_key_salt, base + at::kDigestSalt);
  store_be<uint32_t>(base + at::kDigestIterations, header.volume_key_iterations);
  std::memcpy(base + at::kUuid, header.uuid.data(), kLuks1UuidBytes);
  for (size_t i = 0; i < kLuks1Keyslots; ++i) {
    encode_luks1_keyslot(header.keyslots[i], out.subspan(luks1_keyslot_offset(i), kLuks1KeyslotBytes));
  }
}

Luks1Header decode_luks1_header(ConstBytes in, uint64_t area_bytes, std::string_view where) {
  check_magic(in, where);
  const std::byte* const base = in.data();
  Luks1Header header;
  header.cipher = decode_cipher(in, where);
  header.hash = decode_hash(in, where);
  header.payload_sector = load_be<uint32_t>(base + at::kPayloadSector);
  std::memcpy(header.volume_key_digest.data(), base + at::kDigest, kLuks1DigestBytes);
  std::memcpy(header.volume_key_salt.data(), base + at::kDigestSalt, kLuks1SaltBytes);
  header.volume_key_iterations = load_be<uint32_t>(base + at::kDigestIterations);
  if (header.volume_key_iterations == 0) {
    fail(ErrorKind::kCorrupt, "{}: the iteration count of the volume key's digest is zero", where);
  }
  std::memcpy(header.uuid.data(), base + at::kUuid, kLuks1UuidBytes);
  for (size_t i = 0; i < kLuks1Keyslots; ++i) {
    header.keyslots[i] = decode_keyslot(base + at::kKeyslots + i * kLuks1KeyslotBytes, i, where);
  }
  check_layout(header, area_bytes, where);
  return header;
}

}  // namespace cofre::luks
