#include "job/audit_keys.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "crypto/random.h"
#include "format/luks/luks1.h"
#include "job/audit_wipe.h"

namespace cofre::job {
namespace {

using crypto::Look;

struct Range {
  uint64_t begin;  // in the file
  uint64_t end;
};

Range material_of(const KeyArea& area, const luks::Luks1Header& header, size_t keyslot) {
  const uint64_t begin = area.offset + header.material_offset_bytes(keyslot);
  return {begin, std::min(begin + header.material_bytes(), area.offset + area.length_bytes)};
}

// What neither the header itself nor a keyslot's material takes.
std::vector<Range> gaps_of(const KeyArea& area, const luks::Luks1Header& header) {
  std::vector<Range> used = {{area.offset, area.offset + luks::kLuks1HeaderBytes}};
  for (size_t i = 0; i < luks::kLuks1Keyslots; ++i) used.push_back(material_of(area, header, i));
  std::ranges::sort(used, {}, &Range::begin);
  std::vector<Range> gaps;
  uint64_t at = area.offset;
  for (const Range& range : used) {
    if (at < range.begin) gaps.push_back({at, range.begin});
    at = std::max(at, range.end);
  }
  if (at < area.offset + area.length_bytes) gaps.push_back({at, area.offset + area.length_bytes});
  return gaps;
}

io::task<void> report_plain(const KeyArea& area, Range range, const std::string& detail,
                            AuditReport& report) {
  co_await for_each_sector(area.device, range.begin, range.end, [&](uint64_t at, ConstBytes bytes) {
    crypto::Frequencies together;
    const Look look = crypto::look_at(bytes, &together);
    if (look != Look::kRandom && look != Look::kZero)
      report.add({AuditKind::kPlainKeyArea, area.device.name(), at, bytes.size(), look, detail});
  });
}

io::task<bool> all_zero(const KeyArea& area, Range range) {
  bool zero = true;
  co_await for_each_sector(area.device, range.begin, range.end, [&](uint64_t, ConstBytes bytes) {
    zero = zero && std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
  });
  co_return zero;
}

// An erased keyslot has no iterations and no salt: whoever erases one clears them last. So one that has them
// was only marked disabled, or its eraser died; its material may be what it was.
io::task<bool> keeps_its_key(const KeyArea& area, const luks::Luks1Header& header, size_t keyslot) {
  const luks::Luks1Keyslot& slot = header.keyslots[keyslot];
  if (slot.active || (slot.iterations == 0 && slot.salt == decltype(slot.salt){})) co_return false;
  co_return !co_await all_zero(area, material_of(area, header, keyslot));
}

io::task<void> wipe_keyslot(const KeyArea& area, const luks::Luks1Header& header, size_t keyslot) {
  const Range range = material_of(area, header, keyslot);
  AlignedBuffer noise(range.end - range.begin);
  crypto::random_bytes(noise.bytes());
  co_await area.device.write(range.begin, noise.bytes());
  co_await area.device.flush();
  luks::Luks1Keyslot slot = header.keyslots[keyslot];
  slot.iterations = 0;
  slot.salt = {};
  std::array<std::byte, luks::kLuks1KeyslotBytes> entry;
  luks::encode_luks1_keyslot(slot, entry);
  co_await write_bytes(area.device, area.offset + luks::luks1_keyslot_offset(keyslot), entry);
  co_await area.device.flush();
}

}  // namespace

KeyArea key_area_of(const luks::LuksContainer& container) {
  block::Device& storage = container.header_storage();
  const luks::Luks1Header& header = container.header();
  return {storage, 0,
          header.detached() ? storage.length_bytes()
                            : std::min(header.payload_offset_bytes(), storage.length_bytes())};
}

io::task<void> audit_keys(KeyArea area, const luks::Luks1Header& header, AuditReport& report) {
  if (header.cipher.mode == crypto::CipherMode::ecb)
    report.add({AuditKind::kWeakMode, area.device.name(), area.offset, luks::kLuks1HeaderBytes});
  for (const Range& gap : gaps_of(area, header)) co_await report_plain(area, gap, "between keyslots", report);
  for (size_t i = 0; i < luks::kLuks1Keyslots; ++i) {
    const Range material = material_of(area, header, i);
    co_await report_plain(area, material, fmt::format("keyslot {}", i), report);
    if (co_await keeps_its_key(area, header, i))
      report.add({AuditKind::kKeyslotNotErased, area.device.name(), material.begin,
                  material.end - material.begin, Look::kRandom, fmt::format("keyslot {}", i)});
  }
}

io::task<void> wipe_keys(KeyArea area, luks::Luks1Header header, AuditFixes& fixes) {
  for (const Range& gap : gaps_of(area, header))
    fixes.bytes_wiped += co_await wipe(area.device, gap.begin, gap.end);
  for (size_t i = 0; i < luks::kLuks1Keyslots; ++i) {
    AuditReport report;
    if (header.keyslots[i].active) continue;
    co_await report_plain(area, material_of(area, header, i), "", report);
    if (!report.has_plain() && !co_await keeps_its_key(area, header, i)) continue;
    co_await wipe_keyslot(area, header, i);
    ++fixes.keyslots_wiped;
  }
}

}  // namespace cofre::job
