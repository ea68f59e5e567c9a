#include "export/vhost_user_blk/block_device.h"

#include <algorithm>

#include "base/checked.h"
#include "base/units.h"

namespace cofre::vhost {
namespace {

constexpr uint32_t kMostSegmentBytes = kMiB;
constexpr uint16_t kMostSegments = 126;  // a ring of 128, which is common, has two more: header and status
constexpr uint8_t kPhysicalBlockExponent = 3;  // 8 sectors
constexpr uint32_t kHeads = 16;
constexpr uint32_t kSectorsOfTrack = 63;

uint64_t features_of(const DeviceSettings& settings) {
  using namespace block_feature;
  uint64_t features = kSegmentBytes | kSegments | kGeometry | kBlockSize | kFlush | kTopology | kCacheMode |
                      kMultiQueue | feature::kIndirectDescriptors | feature::kEventIndex |
                      feature::kProtocolFeatures | feature::kVersion1 | feature::kRingPacked;
  features |= settings.read_only ? kReadOnly : kDiscard | kWriteZeroes;
  return features;
}

uint32_t in_sectors(uint64_t bytes) {
  return static_cast<uint32_t>(std::clamp<uint64_t>(bytes / kSectorBytes, 1, UINT32_MAX));
}

}  // namespace

BlockDevice::BlockDevice(DeviceSettings settings)
    : settings_(std::move(settings)),
      capacity_sectors_(settings_.device->length_bytes() / kSectorBytes),
      features_(features_of(settings_)) {}

std::array<std::byte, kMostConfigBytes> BlockDevice::config() const {
  std::array<std::byte, kMostConfigBytes> space = {};
  std::byte* const at = space.data();
  const block::Limits& limits = settings_.device->limits();
  store_le(at, capacity_sectors_);
  store_le(at + 8, kMostSegmentBytes);
  store_le(at + 12, uint32_t{kMostSegments});
  store_le(at + 16,
           static_cast<uint16_t>(std::min<uint64_t>(65535, capacity_sectors_ / (kHeads * kSectorsOfTrack))));
  store_le(at + 18, static_cast<uint8_t>(kHeads));
  store_le(at + 19, static_cast<uint8_t>(kSectorsOfTrack));
  store_le(at + 20, kSectorBytes);
  store_le(at + 24, kPhysicalBlockExponent);
  store_le(at + 26, uint16_t{1u << kPhysicalBlockExponent});
  store_le(at + 28, in_sectors(limits.preferred_bytes));
  store_le(at + kWritebackAt, static_cast<uint8_t>(writeback_ ? 1 : 0));
  store_le(at + 34, settings_.queues);
  store_le(at + 36, kMostRangeSectors);
  store_le(at + 40, kMostRanges);
  store_le(at + 44, in_sectors(limits.discard_alignment));
  store_le(at + 48, kMostRangeSectors);
  store_le(at + 52, kMostRanges);
  store_le(at + 56, uint8_t{1});  // write-zeroes requests may give up space
  return space;
}

void BlockDevice::reset() {
  negotiated_ = 0;
  writeback_ = true;
  update_write_through();
}

void BlockDevice::set_features(uint64_t negotiated) {
  negotiated_ = negotiated;
  update_write_through();
}

void BlockDevice::set_writeback(bool writeback) {
  writeback_ = writeback;
  update_write_through();
}

// VIRTIO 1.2, 5.2.6.2: a driver that cannot flush expects that a write is durable when it is done.
void BlockDevice::update_write_through() noexcept {
  const bool chosen = (negotiated_ & block_feature::kCacheMode) != 0;
  const bool flushes = (negotiated_ & block_feature::kFlush) != 0;
  write_through_.store(chosen ? !writeback_ : !flushes, std::memory_order_release);
}

bool BlockDevice::within(uint64_t sector, uint64_t bytes) const noexcept {
  return bytes % kSectorBytes == 0 && range_within(sector, bytes / kSectorBytes, capacity_sectors_);
}

}  // namespace cofre::vhost
