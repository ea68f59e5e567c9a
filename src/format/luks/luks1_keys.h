// The keys of a LUKS1 volume and the material of its keyslots: what making, opening and changing a volume
// share (LUKS On-Disk Format Specification 1.2.3, sections 2.3 and 4; docs/format/luks1.md).
//
// Any lane; deriving keys is slow by design. Offsets and lengths are bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>

#include "base/bytes.h"
#include "block/device.h"
#include "crypto/secret.h"
#include "format/luks/luks1_header.h"
#include "io/task.h"

namespace cofre::luks {

// "disk.qcow2, LUKS header at offset 65536": how messages begin.
std::string luks1_place(const block::Device& storage, uint64_t header_offset);

// Reads a range that need not be aligned for the storage. Throws Error kCorrupt past the storage's end.
io::task<void> read_luks1_bytes(block::Device& storage, uint64_t offset, Bytes destination);

// PBKDF2 with the header's hash.
crypto::SecretBytes derive_luks1_key(const Luks1Header& header, ConstBytes passphrase, ConstBytes salt,
                                     uint32_t iterations, size_t key_bytes);

// Whether the header's digest is that of `candidate`.
bool is_luks1_volume_key(const Luks1Header& header, ConstBytes candidate);

// The iterations of a keyslot that takes `iter_time` to try on this machine, or `forced`.
uint32_t luks1_keyslot_iterations(const Luks1Header& header, std::chrono::milliseconds iter_time,
                                  std::optional<uint32_t> forced);

// What a keyslot holds on disk, header.material_bytes() long: the volume key split and encrypted. It may lie
// at any keyslot whose salt and iterations are those of `slot`.
crypto::SecretBytes seal_volume_key(const Luks1Header& header, const Luks1Keyslot& slot,
                                    ConstBytes volume_key, ConstBytes passphrase);

// The volume key, if `passphrase` opens this keyslot, whether or not it is active. `stop` is looked at before
// each of the two derivations (kCancelled).
io::task<std::optional<crypto::SecretBytes>> open_luks1_keyslot(block::Device& storage,
                                                                uint64_t header_offset,
                                                                const Luks1Header& header, size_t keyslot,
                                                                ConstBytes passphrase,
                                                                std::stop_token stop = {});

}  // namespace cofre::luks
