// Changing the keyslots of a LUKS1 volume: adding a passphrase, erasing one, rotating (LUKS On-Disk Format
// Specification 1.2.3, sections 4.2 to 4.4; docs/format/luks1.md). The raw container and qcow2 both use this.
//
// A crash or a failure between any two writes leaves a volume that every passphrase opens which is to open it
// afterwards, or which was to be replaced and is not yet: a keyslot becomes active when its material is
// durable, an erased one's material is overwritten before the header gives the keyslot up, and whoever
// replaces a passphrase erases the old one only after the new one was seen to open the volume.
//
// Lane: the awaiting one. The storage's requests are of whole sectors or finer; nobody else may use the range
// meanwhile. Only the keyslots' own bytes of the header are written. Done means durable.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "block/device.h"
#include "crypto/secret.h"
#include "format/luks/luks1.h"
#include "io/task.h"

namespace cofre::luks {

// How costly a new keyslot's passphrase is to try.
struct KeyslotCost {
  std::chrono::milliseconds iter_time{2000};
  std::optional<uint32_t> forced_iterations{};  // in place of iter_time's measurement
};

class Luks1Keyslots {
 public:
  // `volume` was unlocked from this storage and outlives this; its header follows the changes. Throws Error
  // kInvalidArgument when the storage's requests are longer than a sector.
  Luks1Keyslots(block::Device& storage, uint64_t header_offset, Luks1Volume& volume);

  const Luks1Keyslot& operator[](size_t keyslot) const { return volume_.header.keyslots.at(keyslot); }
  size_t active() const noexcept;
  std::optional<size_t> free() const noexcept;  // the first that is not active

  io::task<bool> opens(size_t keyslot, ConstBytes passphrase);
  // The active ones that the passphrase opens.
  io::task<std::vector<size_t>> matching(ConstBytes passphrase);

  // Reads the header and the keyslot again. Throws Error kIo when the passphrase does not open what is there.
  io::task<void> require_opens(size_t keyslot, ConstBytes passphrase);

  // Makes an inactive keyslot one of `passphrase`. Throws Error kExists for an active one.
  io::task<void> add(size_t keyslot, ConstBytes passphrase, KeyslotCost cost);
  // Gives an active keyslot another passphrase. Until that is done a free keyslot holds the new passphrase
  // too, so that the old or the new one opens the volume at any moment; when all are in use only the others
  // do meanwhile.
  io::task<void> overwrite(size_t keyslot, ConstBytes passphrase, KeyslotCost cost);
  // Overwrites the material with random bytes and then disables the keyslot: also the last active one, after
  // which nobody opens the volume ever again.
  io::task<void> erase(size_t keyslot);

 private:
  // A keyslot's content, which does not depend on the keyslot's place.
  struct Sealed {
    uint32_t iterations = 0;
    std::array<std::byte, kLuks1SaltBytes> salt{};
    crypto::SecretBytes material;
  };

  uint64_t material_offset(size_t keyslot) const noexcept;
  Sealed seal(ConstBytes passphrase, KeyslotCost cost) const;
  io::task<void> put(size_t keyslot, const Sealed& sealed);
  io::task<void> write_entry(size_t keyslot, const Luks1Keyslot& entry);

  block::Device& storage_;
  uint64_t header_offset_;
  Luks1Volume& volume_;
};

// What `amend` changes, in QEMU's terms.
struct KeyslotAmendment {
  bool activate = false;                       // state
  std::optional<int64_t> keyslot{};            // as given: it need not be one
  std::optional<ConstBytes> new_passphrase{};  // new-secret
  std::optional<ConstBytes> old_passphrase{};  // old-secret
  std::optional<std::chrono::milliseconds> iter_time{};
  bool force = false;
};

// Throws Error kInvalidArgument for amendments that contradict themselves: what can be told without a volume.
void validate(const KeyslotAmendment& amendment);

// Does it, with QEMU's rules: an active keyslot is overwritten, and the last one erased, only with `force`
// (kExists, kInvalidArgument). Throws kNotFound when no keyslot fits, kNoSpace when all are in use,
// kWrongSecret when the old passphrase does not open what is to be erased.
io::task<void> amend_keyslots(Luks1Keyslots keyslots, KeyslotAmendment amendment);

// Adds a passphrase in a free keyslot and sees that it opens the volume. Gives the keyslot. Throws Error
// kNoSpace when no keyslot is free.
io::task<size_t> add_passphrase(Luks1Keyslots keyslots, ConstBytes passphrase, KeyslotCost cost);

// Adds `new_passphrase` in a free keyslot, sees that it opens the volume, and erases every keyslot that
// `old_passphrase` opens. Gives the new keyslot. Throws Error kInvalidArgument when both are the same,
// kNoSpace when no keyslot is free.
io::task<size_t> replace_passphrase(Luks1Keyslots keyslots, ConstBytes old_passphrase,
                                    ConstBytes new_passphrase, KeyslotCost cost);

}  // namespace cofre::luks
