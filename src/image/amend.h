// Changes options of an existing image: LUKS keyslots, and what qcow2's header says. Home lane.
//
// Every step leaves an image that opens, also when it is interrupted. Steps that were done stay done when a
// later one fails.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "crypto/secret.h"
#include "format/luks/luks1_keyslots.h"
#include "image/amend_options.h"
#include "image/open.h"

namespace cofre::image {

// How far it is, and whether to stop; either may be empty.
struct AmendControl {
  std::function<void(uint64_t done, uint64_t total)> progress;
  std::function<bool()> cancelled;
};

struct AmendRequest {
  ImageName name;
  Options options;     // -o
  bool force = false;  // may erase the last keyslot, and overwrite active ones
  CacheMode cache = {};
  AmendControl control = {};
};

// Throws Error; for an option that the image does not bear, before anything changes.
io::task<void> amend_image(AmendRequest request, Secrets& secrets);

// A passphrase of an encrypted image, in one step. "The present passphrase" is the one that opens it.
enum class PassphraseChange {
  kAdd,      // a new one beside those that it has
  kReplace,  // the present one by a new one, which is seen to open the image before the old one goes
  kRemove,   // the present one; the last one only with `force`
};

struct PassphraseRequest {
  ImageName name;
  PassphraseChange change = PassphraseChange::kAdd;
  bool force = false;
  CacheMode cache = {};
  luks::KeyslotCost cost = {};
  // Called when the present passphrase has opened the image. Not for kRemove.
  std::function<crypto::SecretBytes(const std::string& path)> new_passphrase;
};

struct PassphraseOutcome {
  std::optional<size_t> added;  // the keyslot
  std::vector<size_t> erased;
};

// Throws Error kUnsupported for images that are not encrypted with LUKS.
io::task<PassphraseOutcome> change_passphrase(PassphraseRequest request, Secrets& secrets);

}  // namespace cofre::image
