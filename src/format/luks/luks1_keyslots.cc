#include "format/luks/luks1_keyslots.h"

#include <algorithm>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "crypto/random.h"
#include "format/luks/luks1_keys.h"

namespace cofre::luks {
namespace {

[[noreturn]] void fail_all_in_use() {
  fail(ErrorKind::kNoSpace, "all {} keyslots are in use: erase one first", kLuks1Keyslots);
}

[[noreturn]] void invalid(const char* sentence) {
  fail(ErrorKind::kInvalidArgument, "{}", sentence);
}

}  // namespace

Luks1Keyslots::Luks1Keyslots(block::Device& storage, uint64_t header_offset, Luks1Volume& volume)
    : storage_(storage), header_offset_(header_offset), volume_(volume) {
  const uint32_t alignment = storage.limits().request_alignment;
  if (alignment > kSectorBytes || !is_aligned(header_offset, uint64_t{alignment}))
    fail(ErrorKind::kInvalidArgument, "{}: keyslots consist of sectors, the storage's requests of {} bytes",
         luks1_place(storage, header_offset), alignment);
}

size_t Luks1Keyslots::active() const noexcept {
  return static_cast<size_t>(std::ranges::count_if(volume_.header.keyslots, &Luks1Keyslot::active));
}

std::optional<size_t> Luks1Keyslots::free() const noexcept {
  const auto& keyslots = volume_.header.keyslots;
  const auto found = std::ranges::find_if_not(keyslots, &Luks1Keyslot::active);
  if (found == keyslots.end()) return std::nullopt;
  return static_cast<size_t>(found - keyslots.begin());
}

io::task<bool> Luks1Keyslots::opens(size_t keyslot, ConstBytes passphrase) {
  if (!(*this)[keyslot].active) co_return false;
  const std::optional<crypto::SecretBytes> key =
      co_await open_luks1_keyslot(storage_, header_offset_, volume_.header, keyslot, passphrase);
  co_return key.has_value();
}

io::task<std::vector<size_t>> Luks1Keyslots::matching(ConstBytes passphrase) {
  std::vector<size_t> found;
  for (size_t i = 0; i < kLuks1Keyslots; ++i)
    if (co_await opens(i, passphrase)) found.push_back(i);
  co_return found;
}

io::task<void> Luks1Keyslots::require_opens(size_t keyslot, ConstBytes passphrase) {
  const Luks1Header header = co_await luks1_read_header(storage_, header_offset_);
  const bool as_written = header.keyslots == volume_.header.keyslots;
  if (as_written && co_await opens(keyslot, passphrase)) co_return;
  fail(ErrorKind::kIo, "{}: keyslot {} does not open with the passphrase just written: nothing was erased",
       luks1_place(storage_, header_offset_), keyslot);
}

// ---- writing ----

uint64_t Luks1Keyslots::material_offset(size_t keyslot) const noexcept {
  return header_offset_ + volume_.header.material_offset_bytes(keyslot);
}

Luks1Keyslots::Sealed Luks1Keyslots::seal(ConstBytes passphrase, KeyslotCost cost) const {
  Sealed sealed;
  sealed.iterations = luks1_keyslot_iterations(volume_.header, cost.iter_time, cost.forced_iterations);
  crypto::random_bytes(sealed.salt);
  const Luks1Keyslot slot{.active = true, .iterations = sealed.iterations, .salt = sealed.salt};
  sealed.material = seal_volume_key(volume_.header, slot, volume_.volume_key.bytes(), passphrase);
  return sealed;
}

// The sectors that hold the entry, with everything else in them as it was found.
io::task<void> Luks1Keyslots::write_entry(size_t keyslot, const Luks1Keyslot& entry) {
  const uint64_t begin = luks1_keyslot_offset(keyslot);
  const uint64_t first = align_down(begin, uint64_t{kSectorBytes});
  const uint64_t end = align_up(begin + kLuks1KeyslotBytes, uint64_t{kSectorBytes});
  AlignedBuffer sectors(end - first);
  co_await storage_.read(header_offset_ + first, sectors.bytes());
  encode_luks1_keyslot(entry, sectors.bytes().subspan(begin - first, kLuks1KeyslotBytes));
  co_await storage_.write(header_offset_ + first, sectors.bytes());
  volume_.header.keyslots[keyslot] = entry;
}

// The keyslot is inactive. Salt and iterations are durable before its state says active, for a salt may lie
// in two sectors.
io::task<void> Luks1Keyslots::put(size_t keyslot, const Sealed& sealed) {
  Luks1Keyslot entry = (*this)[keyslot];
  entry.iterations = sealed.iterations;
  entry.salt = sealed.salt;
  co_await storage_.write(material_offset(keyslot), sealed.material.bytes());
  co_await write_entry(keyslot, entry);
  co_await storage_.flush();
  entry.active = true;
  co_await write_entry(keyslot, entry);
  co_await storage_.flush();
}

io::task<void> Luks1Keyslots::add(size_t keyslot, ConstBytes passphrase, KeyslotCost cost) {
  if ((*this)[keyslot].active)
    fail(ErrorKind::kExists, "{}: keyslot {} is in use", luks1_place(storage_, header_offset_), keyslot);
  const Sealed sealed = seal(passphrase, cost);
  co_await put(keyslot, sealed);
}

io::task<void> Luks1Keyslots::overwrite(size_t keyslot, ConstBytes passphrase, KeyslotCost cost) {
  const Sealed sealed = seal(passphrase, cost);
  const std::optional<size_t> meanwhile = free();
  if (meanwhile) {
    co_await put(*meanwhile, sealed);
    co_await require_opens(*meanwhile, passphrase);
  }
  co_await erase(keyslot);
  co_await put(keyslot, sealed);
  if (!meanwhile) co_return;
  co_await require_opens(keyslot, passphrase);
  co_await erase(*meanwhile);
}

io::task<void> Luks1Keyslots::erase(size_t keyslot) {
  AlignedBuffer noise(volume_.header.material_bytes());
  crypto::random_bytes(noise.bytes());
  co_await storage_.write(material_offset(keyslot), noise.bytes());
  co_await storage_.flush();
  Luks1Keyslot entry = (*this)[keyslot];
  entry.active = false;
  entry.iterations = 0;
  entry.salt = {};
  co_await write_entry(keyslot, entry);
  co_await storage_.flush();
}

// ---- amend ----

namespace {

// The keyslot that was asked for, if one was.
std::optional<size_t> checked_keyslot(const KeyslotAmendment& amendment) {
  if (!amendment.keyslot) return std::nullopt;
  if (*amendment.keyslot < 0 || *amendment.keyslot >= int64_t{kLuks1Keyslots})
    fail(ErrorKind::kInvalidArgument, "keyslot {} does not exist: they are numbered from 0 to {}",
         *amendment.keyslot, kLuks1Keyslots - 1);
  return static_cast<size_t>(*amendment.keyslot);
}

io::task<void> activate(Luks1Keyslots& keyslots, const KeyslotAmendment& amendment) {
  const std::optional<size_t> asked = checked_keyslot(amendment);
  const std::optional<size_t> keyslot = asked ? asked : keyslots.free();
  if (!keyslot) fail_all_in_use();
  const bool in_use = keyslots[*keyslot].active;
  if (in_use && !amendment.force)
    fail(ErrorKind::kExists,
         "keyslot {} is in use: erase it first, leave keyslot out to take a free one, or overwrite it with "
         "--force",
         *keyslot);
  KeyslotCost cost;
  if (amendment.iter_time) cost.iter_time = *amendment.iter_time;
  if (in_use)
    co_await keyslots.overwrite(*keyslot, *amendment.new_passphrase, cost);
  else
    co_await keyslots.add(*keyslot, *amendment.new_passphrase, cost);
}

io::task<void> erase_one(Luks1Keyslots& keyslots, size_t keyslot, const KeyslotAmendment& amendment) {
  if (amendment.old_passphrase && !co_await keyslots.opens(keyslot, *amendment.old_passphrase))
    fail(ErrorKind::kWrongSecret, "keyslot {} does not open with the old passphrase", keyslot);
  if (!keyslots[keyslot].active && !amendment.force)
    fail(ErrorKind::kNotFound, "keyslot {} is erased (inactive) already", keyslot);
  if (keyslots[keyslot].active && keyslots.active() == 1 && !amendment.force)
    fail(ErrorKind::kInvalidArgument,
         "keyslot {} is the only active one: without it nobody opens the image ever again. Add another "
         "passphrase first, or destroy the image's content with --force",
         keyslot);
  co_await keyslots.erase(keyslot);
}

io::task<void> erase_matching(Luks1Keyslots& keyslots, const KeyslotAmendment& amendment) {
  const std::vector<size_t> found = co_await keyslots.matching(*amendment.old_passphrase);
  if (found.empty()) fail(ErrorKind::kWrongSecret, "no keyslot opens with the old passphrase");
  if (found.size() == keyslots.active() && !amendment.force)
    fail(ErrorKind::kInvalidArgument,
         "all active keyslots open with this passphrase: without them nobody opens the image ever again. Add "
         "another passphrase first, or destroy the image's content with --force");
  for (const size_t keyslot : found) co_await keyslots.erase(keyslot);
}

}  // namespace

void validate(const KeyslotAmendment& amendment) {
  checked_keyslot(amendment);
  if (amendment.activate) {
    if (!amendment.new_passphrase) invalid("to activate a keyslot, new-secret is needed");
    if (amendment.old_passphrase) invalid("old-secret must not be given when activating keyslots");
    return;
  }
  if (amendment.new_passphrase) invalid("new-secret must not be given when erasing keyslots");
  if (amendment.iter_time) invalid("iter-time must not be given when erasing keyslots");
  if (!amendment.keyslot && !amendment.old_passphrase)
    invalid("to erase keyslots, give the number (keyslot) or the passphrase that opens them (old-secret)");
}

io::task<void> amend_keyslots(Luks1Keyslots keyslots, KeyslotAmendment amendment) {
  validate(amendment);
  if (amendment.activate) co_return co_await activate(keyslots, amendment);
  if (const std::optional<size_t> keyslot = checked_keyslot(amendment))
    co_return co_await erase_one(keyslots, *keyslot, amendment);
  co_await erase_matching(keyslots, amendment);
}

io::task<size_t> add_passphrase(Luks1Keyslots keyslots, ConstBytes passphrase, KeyslotCost cost) {
  const std::optional<size_t> keyslot = keyslots.free();
  if (!keyslot) fail_all_in_use();
  co_await keyslots.add(*keyslot, passphrase, cost);
  co_await keyslots.require_opens(*keyslot, passphrase);
  co_return *keyslot;
}

io::task<size_t> replace_passphrase(Luks1Keyslots keyslots, ConstBytes old_passphrase,
                                    ConstBytes new_passphrase, KeyslotCost cost) {
  if (crypto::equal_constant_time(old_passphrase, new_passphrase))
    invalid("the new passphrase is the old one: nothing was changed");
  const std::vector<size_t> old = co_await keyslots.matching(old_passphrase);
  const size_t keyslot = co_await add_passphrase(keyslots, new_passphrase, cost);
  for (const size_t each : old) co_await keyslots.erase(each);
  co_return keyslot;
}

}  // namespace cofre::luks
