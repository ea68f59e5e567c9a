#include "format/luks/luks1_keys.h"

#include <algorithm>
#include <memory>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "crypto/af_split.h"
#include "crypto/kdf.h"
#include "crypto/sector_cipher.h"

namespace cofre::luks {
namespace {

// The cipher of a keyslot's material, under the key that the passphrase gives.
std::unique_ptr<crypto::SectorCipher> keyslot_cipher(const Luks1Header& header, const Luks1Keyslot& slot,
                                                     ConstBytes passphrase) {
  const crypto::SecretBytes key =
      derive_luks1_key(header, passphrase, slot.salt, slot.iterations, header.key_bytes());
  return crypto::SectorCipher::create(header.cipher, key.bytes());
}

size_t split_key_bytes(const Luks1Header& header) {
  return header.key_bytes() * kLuks1Stripes;
}

// The volume key in `material`, which is decrypted in place, or what a wrong passphrase makes of it.
crypto::SecretBytes open_material(const Luks1Header& header, const Luks1Keyslot& slot, Bytes material,
                                  ConstBytes passphrase) {
  keyslot_cipher(header, slot, passphrase)->decrypt(0, material, material);
  crypto::SecretBytes key(header.key_bytes());
  crypto::af_merge(header.hash, material.first(split_key_bytes(header)), slot.stripes, key.bytes());
  return key;
}

void check_not_stopped(const std::stop_token& stop, const block::Device& storage) {
  if (stop.stop_requested()) fail(ErrorKind::kCancelled, "{}: opening it was cancelled", storage.name());
}

}  // namespace

std::string luks1_place(const block::Device& storage, uint64_t header_offset) {
  return fmt::format("{}, LUKS header at offset {}", storage.name(), header_offset);
}

io::task<void> read_luks1_bytes(block::Device& storage, uint64_t offset, Bytes destination) {
  if (!range_within(offset, destination.size(), storage.length_bytes())) {
    fail(ErrorKind::kCorrupt,
         "{}: {} bytes of LUKS metadata at offset {} lie beyond the end of the storage ({} bytes)",
         storage.name(), destination.size(), offset, storage.length_bytes());
  }
  const uint64_t alignment = storage.limits().request_alignment;
  const uint64_t start = align_down(offset, alignment);
  const uint64_t end = std::min(align_up(offset + destination.size(), alignment), storage.length_bytes());
  AlignedBuffer buffer(end - start);
  co_await storage.read(start, buffer.bytes());
  std::ranges::copy(buffer.bytes().subspan(offset - start, destination.size()), destination.begin());
}

crypto::SecretBytes derive_luks1_key(const Luks1Header& header, ConstBytes passphrase, ConstBytes salt,
                                     uint32_t iterations, size_t key_bytes) {
  crypto::SecretBytes key(key_bytes);
  crypto::pbkdf2(header.hash, passphrase, salt, iterations, key.bytes());
  return key;
}

bool is_luks1_volume_key(const Luks1Header& header, ConstBytes candidate) {
  const crypto::SecretBytes digest = derive_luks1_key(header, candidate, header.volume_key_salt,
                                                      header.volume_key_iterations, kLuks1DigestBytes);
  return crypto::equal_constant_time(digest.bytes(), header.volume_key_digest);
}

uint32_t luks1_keyslot_iterations(const Luks1Header& header, std::chrono::milliseconds iter_time,
                                  std::optional<uint32_t> forced) {
  if (forced) return *forced;
  return static_cast<uint32_t>(crypto::pbkdf2_iterations_for(header.hash, header.key_bytes(), iter_time));
}

crypto::SecretBytes seal_volume_key(const Luks1Header& header, const Luks1Keyslot& slot,
                                    ConstBytes volume_key, ConstBytes passphrase) {
  crypto::SecretBytes material(header.material_bytes());
  crypto::af_split(header.hash, volume_key, slot.stripes, material.bytes().first(split_key_bytes(header)));
  keyslot_cipher(header, slot, passphrase)->encrypt(0, material.bytes(), material.bytes());
  return material;
}

io::task<std::optional<crypto::SecretBytes>> open_luks1_keyslot(block::Device& storage,
                                                                uint64_t header_offset,
                                                                const Luks1Header& header, size_t keyslot,
                                                                ConstBytes passphrase, std::stop_token stop) {
  crypto::SecretBytes material(header.material_bytes());
  co_await read_luks1_bytes(storage, header_offset + header.material_offset_bytes(keyslot), material.bytes());
  check_not_stopped(stop, storage);
  crypto::SecretBytes key = open_material(header, header.keyslots[keyslot], material.bytes(), passphrase);
  check_not_stopped(stop, storage);
  if (!is_luks1_volume_key(header, key.bytes())) co_return std::nullopt;
  co_return key;
}

}  // namespace cofre::luks
