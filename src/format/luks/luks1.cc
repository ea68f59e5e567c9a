#include "format/luks/luks1.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "crypto/kdf.h"
#include "crypto/random.h"
#include "format/luks/luks1_keys.h"

namespace cofre::luks {
namespace {

constexpr uint64_t kAlignmentBytes = uint64_t{kLuks1AlignmentSectors} * kSectorBytes;
// The digest of the volume key gets an eighth of the keyslot's time, as with QEMU and cryptsetup.
constexpr uint32_t kDigestShare = 8;

// ---- making a volume ----

// RFC 4122 version 4: 122 random bits.
std::array<char, kLuks1UuidBytes> random_uuid() {
  std::array<std::byte, 16> bits;
  crypto::random_bytes(bits);
  bits[6] = (bits[6] & std::byte{0x0f}) | std::byte{0x40};
  bits[8] = (bits[8] & std::byte{0x3f}) | std::byte{0x80};
  std::array<char, kLuks1UuidBytes> uuid{};
  char* out = uuid.data();
  for (size_t i = 0; i < bits.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) *out++ = '-';
    out = fmt::format_to(out, "{:02x}", std::to_integer<unsigned>(bits[i]));
  }
  return uuid;
}

uint32_t digest_iterations(const Luks1CreateOptions& options) {
  const uint64_t whole = options.forced_iterations ? *options.forced_iterations
                                                   : crypto::pbkdf2_iterations_for(
                                                         options.hash, kLuks1DigestBytes, options.iter_time);
  return static_cast<uint32_t>(std::max<uint64_t>(whole / kDigestShare, crypto::kMinPbkdf2Iterations));
}

// The header of a new volume with its key in `volume_key`; keyslot 0 is ready for its material.
Luks1Header new_header(const Luks1CreateOptions& options, ConstBytes volume_key) {
  Luks1Header header = luks1_plan_header(options.cipher, options.hash);
  header.uuid = random_uuid();
  crypto::random_bytes(header.volume_key_salt);
  header.volume_key_iterations = digest_iterations(options);
  const crypto::SecretBytes digest = derive_luks1_key(header, volume_key, header.volume_key_salt,
                                                      header.volume_key_iterations, kLuks1DigestBytes);
  std::ranges::copy(digest.bytes(), header.volume_key_digest.begin());
  Luks1Keyslot& slot = header.keyslots[0];
  slot.active = true;
  slot.iterations = luks1_keyslot_iterations(header, options.iter_time, options.forced_iterations);
  crypto::random_bytes(slot.salt);
  return header;
}

crypto::SecretBytes new_volume_key(const Luks1CreateOptions& options) {
  crypto::SecretBytes key(options.cipher.key_bytes());
  // Equal halves would make XTS weak, and FIPS 140 modules refuse them.
  do {
    crypto::random_bytes(key.bytes());
  } while (options.cipher.mode == crypto::CipherMode::xts &&
           crypto::equal_constant_time(key.bytes().first(key.size() / 2), key.bytes().last(key.size() / 2)));
  return key;
}

void check_place(const block::Device& storage, uint64_t header_offset, uint64_t header_bytes) {
  const uint32_t alignment = storage.limits().request_alignment;
  if (alignment > kAlignmentBytes || !is_aligned(header_offset, uint64_t{alignment})) {
    fail(ErrorKind::kInvalidArgument, "{}: not aligned to the storage's requests of {} bytes",
         luks1_place(storage, header_offset), alignment);
  }
  const std::optional<uint64_t> end = checked_add(header_offset, header_bytes);
  if (!end || (*end > storage.length_bytes() && !storage.limits().growable)) {
    fail(ErrorKind::kNoSpace, "{}: the header and its keyslots take {} bytes, the storage has {} in all",
         luks1_place(storage, header_offset), header_bytes, storage.length_bytes());
  }
}

// `content` padded with zero bytes up to the alignment that the layout gives.
io::task<void> write_padded(block::Device& storage, uint64_t offset, ConstBytes content) {
  AlignedBuffer buffer(align_up(content.size(), kAlignmentBytes));
  std::ranges::fill(std::ranges::copy(content, buffer.data()).out, buffer.data() + buffer.size(),
                    std::byte{0});
  co_await storage.write(offset, buffer.bytes());
}

// ---- options ----

template <typename Parse>
auto parse_option(std::string_view option, std::optional<std::string_view> name, std::string_view otherwise,
                  Parse parse) {
  const std::string_view value = name.value_or(otherwise);
  const auto parsed = parse(value);
  if (!parsed) fail(ErrorKind::kInvalidArgument, "the option {} does not know \"{}\"", option, value);
  return *parsed;
}

}  // namespace

Luks1CreateOptions parse_luks1_options(const Luks1OptionNames& names) {
  Luks1CreateOptions options;
  options.cipher.algorithm =
      parse_option("cipher-alg", names.cipher_alg, "aes-256", crypto::parse_cipher_algorithm);
  options.cipher.mode = parse_option("cipher-mode", names.cipher_mode, "xts", crypto::parse_cipher_mode);
  options.cipher.iv = parse_option("ivgen-alg", names.ivgen_alg, "plain64", crypto::parse_iv_generator);
  options.cipher.essiv_digest =
      parse_option("ivgen-hash-alg", names.ivgen_hash_alg, "sha256", crypto::parse_digest);
  options.hash = parse_option("hash-alg", names.hash_alg, "sha256", crypto::parse_digest);
  validate(options);
  return options;
}

void validate(const Luks1CreateOptions& options) {
  options.cipher.validate();
  if (options.hash == crypto::DigestAlgorithm::md5) {
    fail(ErrorKind::kInvalidArgument, "LUKS volumes with the hash md5 can be read, not made: use sha256");
  }
  if (options.iter_time < std::chrono::milliseconds::zero()) {
    fail(ErrorKind::kInvalidArgument, "the iteration time cannot be negative ({} ms)",
         options.iter_time.count());
  }
  if (options.forced_iterations && *options.forced_iterations < crypto::kMinPbkdf2Iterations) {
    fail(ErrorKind::kInvalidArgument, "{} iterations are too few: at least {}", *options.forced_iterations,
         crypto::kMinPbkdf2Iterations);
  }
}

uint64_t luks1_header_bytes(const Luks1CreateOptions& options) {
  return luks1_plan_header(options.cipher, options.hash).payload_offset_bytes();
}

std::unique_ptr<crypto::SectorCipher> Luks1Volume::make_cipher() const {
  return crypto::SectorCipher::create(header.cipher, volume_key.bytes(), kSectorBytes);
}

io::task<Luks1Volume> luks1_format(block::Device& storage, uint64_t header_offset, Luks1CreateOptions options,
                                   ConstBytes passphrase) {
  validate(options);
  check_place(storage, header_offset, luks1_header_bytes(options));
  Luks1Volume volume;
  volume.volume_key = new_volume_key(options);
  volume.header = new_header(options, volume.volume_key.bytes());
  const uint64_t header_bytes = volume.header.payload_offset_bytes();
  if (options.detached) volume.header.payload_sector = 0;
  const Luks1Header& header = volume.header;
  const crypto::SecretBytes material =
      seal_volume_key(header, header.keyslots[0], volume.volume_key.bytes(), passphrase);
  std::array<std::byte, kLuks1HeaderBytes> encoded;
  encode_luks1_header(header, encoded);

  co_await storage.write_zeroes(header_offset, header_bytes);
  co_await write_padded(storage, header_offset + header.material_offset_bytes(0), material.bytes());
  co_await storage.flush();
  co_await write_padded(storage, header_offset, encoded);
  co_await storage.flush();
  co_return volume;
}

io::task<Luks1Header> luks1_read_header(block::Device& storage, uint64_t header_offset, uint64_t area_bytes) {
  const std::string where = luks1_place(storage, header_offset);
  const uint64_t length = storage.length_bytes();
  const uint64_t there = length - std::min(length, header_offset);
  const uint64_t area = area_bytes == 0 ? there : std::min(there, area_bytes);
  std::array<std::byte, kLuks1HeaderBytes> encoded;
  const Bytes available = Bytes(encoded).first(std::min<uint64_t>(area, encoded.size()));
  if (!available.empty()) co_await read_luks1_bytes(storage, header_offset, available);
  Luks1Header header = decode_luks1_header(available, area, where);
  if (header.detached() && area_bytes != 0)
    fail(ErrorKind::kUnsupported, "{}: a detached LUKS header (payload offset 0) inside an image", where);
  co_return header;
}

io::task<Luks1Volume> luks1_unlock(block::Device& storage, uint64_t header_offset, uint64_t area_bytes,
                                   ConstBytes passphrase, std::stop_token stop) {
  Luks1Header header = co_await luks1_read_header(storage, header_offset, area_bytes);
  co_return co_await luks1_unlock(storage, header_offset, std::move(header), passphrase, std::move(stop));
}

io::task<Luks1Volume> luks1_unlock(block::Device& storage, uint64_t header_offset, Luks1Header header,
                                   ConstBytes passphrase, std::stop_token stop) {
  size_t active = 0;
  for (size_t i = 0; i < kLuks1Keyslots; ++i) {
    if (!header.keyslots[i].active) continue;
    ++active;
    std::optional<crypto::SecretBytes> key =
        co_await open_luks1_keyslot(storage, header_offset, header, i, passphrase, stop);
    if (key) co_return Luks1Volume{std::move(header), std::move(*key), i};
  }
  if (active == 0) {
    fail(ErrorKind::kWrongSecret, "{}: no keyslot is active: nothing can open it any more",
         luks1_place(storage, header_offset));
  }
  fail(ErrorKind::kWrongSecret,
       "{}: the passphrase opens none of the {} active keyslots: give the right passphrase",
       luks1_place(storage, header_offset), active);
}

}  // namespace cofre::luks
