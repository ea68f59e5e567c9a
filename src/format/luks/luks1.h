// LUKS1: making a header and its first keyslot, reading a header, opening it with a passphrase (LUKS On-Disk
// Format Specification 1.2.3; docs/format/luks1.md). The raw container (luks_container.h) and qcow2 both
// stand on this.
//
// Lanes: the coroutines run where they are awaited and belong to nobody else meanwhile. Deriving keys is slow
// by design (the iteration time, 2 s by default) and runs on the awaiting lane. Passphrases are the caller's
// and stay valid until the task is done. Offsets and lengths are bytes; every offset in the header counts
// from header_offset.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string_view>

#include "base/bytes.h"
#include "block/device.h"
#include "crypto/cipher_spec.h"
#include "crypto/digest.h"
#include "crypto/secret.h"
#include "crypto/sector_cipher.h"
#include "format/luks/luks1_header.h"
#include "io/task.h"

namespace cofre::luks {

struct Luks1CreateOptions {
  crypto::CipherSpec cipher{};
  crypto::DigestAlgorithm hash = crypto::DigestAlgorithm::sha256;
  // Deriving the keyslot's key takes about this long on the machine that makes the volume.
  std::chrono::milliseconds iter_time{2000};
  // Takes the place of iter_time's measurement; at least crypto::kMinPbkdf2Iterations.
  std::optional<uint32_t> forced_iterations{};
  // The header says that the payload is in another file, from its start on.
  bool detached = false;
};

// The options by QEMU's names and values; one not given is QEMU's default (ivgen-hash-alg: sha256).
struct Luks1OptionNames {
  std::optional<std::string_view> cipher_alg{};      // "aes-256"
  std::optional<std::string_view> cipher_mode{};     // "xts"
  std::optional<std::string_view> ivgen_alg{};       // "plain64"
  std::optional<std::string_view> ivgen_hash_alg{};  // matters with ivgen-alg=essiv only
  std::optional<std::string_view> hash_alg{};        // "sha256"
};
// Throws Error kInvalidArgument, naming the option, for a name that is none, and as validate() does.
Luks1CreateOptions parse_luks1_options(const Luks1OptionNames& names);

// Throws Error kInvalidArgument or kUnsupported for options that no volume can be made with.
void validate(const Luks1CreateOptions& options);

// From the header's start to the end of its keyslots, where the payload begins unless it is elsewhere: what
// luks1_format writes. 2,068,480 for a 64-byte key.
uint64_t luks1_header_bytes(const Luks1CreateOptions& options);

struct Luks1Volume {
  Luks1Header header;
  crypto::SecretBytes volume_key;
  size_t keyslot = 0;  // the one that opened

  // The payload's cipher: 512-byte sectors; what its sector numbers count is the container's to say.
  std::unique_ptr<crypto::SectorCipher> make_cipher() const;
};

// Makes a new volume with one keyslot over [header_offset, header_offset + luks1_header_bytes()), which a
// growable storage need not have yet. A crash before it is done leaves no header, never one whose keyslot
// does not open: the range is zeroed and the key material durable before the header names it. Done means
// durable.
io::task<Luks1Volume> luks1_format(block::Device& storage, uint64_t header_offset, Luks1CreateOptions options,
                                   ConstBytes passphrase);

// Reads and validates a header. `area_bytes` bounds it and its key material within an image, where it cannot
// be detached (kUnsupported); 0: to the end of the storage.
// Throws as decode_luks1_header does, and as the storage.
io::task<Luks1Header> luks1_read_header(block::Device& storage, uint64_t header_offset,
                                        uint64_t area_bytes = 0);

// Tries the active keyslots in order. Throws Error kWrongSecret when none opens. A hostile header can ask for
// hours of key derivation, as with QEMU and cryptsetup: `stop` is looked at before each derivation
// (kCancelled).
io::task<Luks1Volume> luks1_unlock(block::Device& storage, uint64_t header_offset, uint64_t area_bytes,
                                   ConstBytes passphrase, std::stop_token stop = {});
// The same with a header read before.
io::task<Luks1Volume> luks1_unlock(block::Device& storage, uint64_t header_offset, Luks1Header header,
                                   ConstBytes passphrase, std::stop_token stop = {});

}  // namespace cofre::luks
