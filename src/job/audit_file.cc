#include "job/audit_file.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "io/sync.h"

namespace cofre::job {
namespace {

using crypto::Look;

constexpr uint64_t kPieceBytes = 4 * kMiB;
constexpr unsigned kPiecesPerLane = 2;
constexpr uint64_t kTogetherBytes = 64 * kKiB;  // whose frequencies are looked at together
// Of cipher text that is remembered for repeats far apart: one in so many sectors that this suffices.
constexpr uint64_t kMostSamples = uint64_t{1} << 20;

struct Sample {
  uint64_t fingerprint;
  uint64_t offset;
  uint8_t roles;
  auto operator<=>(const Sample&) const = default;
};

bool is_data(uint8_t roles) noexcept {
  return (roles & qcow2::kRoleData) != 0 && (roles & (qcow2::kRoleMetadata | qcow2::kRoleCompressed)) == 0;
}

// Cipher text is random, so its first bytes tell it from any other, but for one in 2^64.
uint64_t fingerprint(ConstBytes sector) noexcept {
  uint64_t value;
  std::memcpy(&value, sector.data(), sizeof value);
  return value;
}

// One piece of the file, examined on whatever lane.
class Piece {
 public:
  void start(uint64_t offset, uint64_t length) {
    if (buffer_.size() < length) buffer_ = AlignedBuffer(kPieceBytes);
    offset_ = offset;
    bytes_ = buffer_.bytes().first(length);
    sights_.clear();
    samples_.clear();
  }

  io::task<void> examine(const AuditedFile& file, uint64_t sample_mask) {
    co_await file.device.read(offset_, bytes_);
    together_.clear();
    for (uint64_t at = 0; at < bytes_.size();) {
      const uint64_t position = offset_ + at;
      const uint64_t granule = position / file.granule_bytes;
      const uint64_t end = std::min<uint64_t>((granule + 1) * file.granule_bytes - offset_, bytes_.size());
      const uint8_t roles = file.roles(granule);
      if ((roles & qcow2::kRoleMetadata) == 0) examine_granule(file, at, end, roles, sample_mask);
      at = end;
    }
    find_repeats();
  }

  const std::vector<Sight>& sights() const noexcept { return sights_; }
  const std::vector<Sample>& samples() const noexcept { return samples_; }
  uint64_t length_bytes() const noexcept { return bytes_.size(); }

 private:
  void examine_granule(const AuditedFile& file, uint64_t at, uint64_t end, uint8_t roles, uint64_t mask) {
    if (roles != together_roles_) together_.clear();
    together_roles_ = roles;
    for (; at < end; at += kSectorBytes) {
      const ConstBytes sector = bytes_.subspan(at, std::min<uint64_t>(kSectorBytes, end - at));
      if ((offset_ + at) % kTogetherBytes == 0) together_.clear();
      examine_sector(file, at, sector, roles, mask);
      if ((offset_ + at + kSectorBytes) % kTogetherBytes == 0) look_at_together(at + kSectorBytes, roles);
    }
  }

  void examine_sector(const AuditedFile& file, uint64_t at, ConstBytes sector, uint8_t roles, uint64_t mask) {
    const Look look = crypto::look_at(sector, file.frequencies ? &together_ : nullptr);
    if (look != Look::kRandom) return add({offset_ + at, offset_ + at + sector.size(), roles, look});
    if (!is_data(roles) || sector.size() != kSectorBytes) return;
    const uint64_t print = fingerprint(sector);
    prints_.push_back({print, at, roles});
    if ((print & mask) == 0) samples_.push_back({print, offset_ + at, roles});
    if (!file.frequencies && crypto::repeats_a_block(sector))
      add({offset_ + at, offset_ + at + kSectorBytes, roles, look, Sight::What::kRepeatedBlock});
  }

  void look_at_together(uint64_t end, uint8_t roles) {
    if (together_.bytes() == kTogetherBytes && together_.chi_square() >= crypto::kTooUneven)
      add({offset_ + end - kTogetherBytes, offset_ + end, roles, Look::kFrequencies});
    together_.clear();
  }

  void find_repeats() {
    std::ranges::sort(prints_);
    for (size_t i = 1; i < prints_.size(); ++i) {
      const Sample& before = prints_[i - 1];
      const Sample& sample = prints_[i];
      if (before.fingerprint != sample.fingerprint) continue;
      if (std::memcmp(bytes_.data() + before.offset, bytes_.data() + sample.offset, kSectorBytes) != 0)
        continue;
      sights_.push_back({offset_ + sample.offset, offset_ + sample.offset + kSectorBytes, sample.roles,
                         Look::kRandom, Sight::What::kRepeatedSector});
    }
    prints_.clear();
  }

  void add(const Sight& sight) {
    if (!sights_.empty()) {
      Sight& before = sights_.back();
      if (before.end == sight.begin && before.roles == sight.roles && before.look == sight.look &&
          before.what == sight.what) {
        before.end = sight.end;
        return;
      }
    }
    sights_.push_back(sight);
  }

  AlignedBuffer buffer_;
  Bytes bytes_;
  uint64_t offset_ = 0;
  std::vector<Sight> sights_;
  std::vector<Sample> samples_;
  std::vector<Sample> prints_;  // offsets within the piece
  crypto::Frequencies together_;
  uint8_t together_roles_ = 0;
};

class LookThrough {
 public:
  LookThrough(const AuditedFile& file, JobControl& control, io::Lanes& lanes, SightVisit visit)
      : file_(file),
        control_(control),
        lanes_(lanes),
        visit_(std::move(visit)),
        pieces_(lanes.count() * kPiecesPerLane) {
    while ((file.device.length_bytes() / kSectorBytes) >> sample_shift_ > kMostSamples) ++sample_shift_;
  }

  io::task<void> run() {
    std::exception_ptr failure;
    try {
      const uint64_t length = file_.device.length_bytes();
      for (uint64_t at = 0; at < length;) at = co_await step(at, length);
      co_await finish_pieces();
    } catch (...) {
      failure = std::current_exception();
    }
    if (failure) {
      co_await abandon_pieces();
      std::rethrow_exception(failure);
    }
    co_await find_far_repeats();
  }

 private:
  // Pieces on their way have to arrive, whatever happened.
  io::task<void> abandon_pieces() {
    try {
      co_await group_.join();
    } catch (...) {  // the first failure is the one that is told
    }
  }

  // Starts on the next piece, or passes a hole. Where the next one begins.
  io::task<uint64_t> step(uint64_t at, uint64_t length) {
    control_.poll();
    const block::Extent extent = co_await file_.device.map(at, length - at);
    const uint64_t extent_bytes = std::min(extent.length_bytes, length - at);
    if (extent.zero && !extent.data) {
      co_await finish_pieces();
      co_await pass_hole(at, at + extent_bytes);
      control_.advance(extent_bytes);
      co_return at + extent_bytes;
    }
    // Pieces end where the file's multiples of their size do, so that 64 KiB stay together.
    const uint64_t end = std::min(align_down(at, kPieceBytes) + kPieceBytes, length);
    if (started_ == pieces_.size()) co_await finish_pieces();
    Piece& piece = pieces_[started_];
    piece.start(at, end - at);
    group_.spawn_on(lanes_.lane(static_cast<unsigned>(started_++ % lanes_.count())),
                    piece.examine(file_, (uint64_t{1} << sample_shift_) - 1));
    co_return end;
  }

  io::task<void> finish_pieces() {
    co_await group_.join();
    const size_t started = std::exchange(started_, 0);
    for (size_t i = 0; i < started; ++i) {
      for (const Sight& sight : pieces_[i].sights()) co_await visit_(sight);
      samples_.insert(samples_.end(), pieces_[i].samples().begin(), pieces_[i].samples().end());
      control_.advance(pieces_[i].length_bytes());
    }
  }

  io::task<void> pass_hole(uint64_t begin, uint64_t end) {
    Sight sight;
    for (uint64_t at = begin; at < end;) {
      const uint64_t granule = at / file_.granule_bytes;
      const uint64_t stop = std::min(end, (granule + 1) * file_.granule_bytes);
      const uint8_t roles = file_.roles(granule);
      if (sight.end == at && sight.roles == roles) {
        sight.end = stop;
      } else {
        if (sight.end != 0 && is_data(sight.roles)) co_await visit_(sight);
        sight = {at, stop, roles, Look::kZero};
      }
      at = stop;
      if (granule % (1 << 20) == 0) control_.poll();
    }
    if (sight.end != 0 && is_data(sight.roles)) co_await visit_(sight);
  }

  // The samples are of sectors in all of the file. Those of one piece were found there.
  io::task<void> find_far_repeats() {
    std::ranges::sort(samples_);
    AlignedBuffer a(kSectorBytes);
    AlignedBuffer b(kSectorBytes);
    for (size_t i = 1; i < samples_.size(); ++i) {
      const Sample& before = samples_[i - 1];
      const Sample& sample = samples_[i];
      if (before.fingerprint != sample.fingerprint) continue;
      if (before.offset / kPieceBytes == sample.offset / kPieceBytes) continue;
      control_.poll();
      co_await file_.device.read(before.offset, a.bytes());
      co_await file_.device.read(sample.offset, b.bytes());
      if (std::memcmp(a.data(), b.data(), kSectorBytes) != 0) continue;
      co_await visit_({sample.offset, sample.offset + kSectorBytes, sample.roles, Look::kRandom,
                       Sight::What::kRepeatedSector});
    }
  }

  const AuditedFile& file_;
  JobControl& control_;
  io::Lanes& lanes_;
  SightVisit visit_;
  std::vector<Piece> pieces_;
  size_t started_ = 0;
  unsigned sample_shift_ = 0;
  std::vector<Sample> samples_;
  io::TaskGroup group_;
};

}  // namespace

io::task<void> look_through(const AuditedFile& file, JobControl& control, io::Lanes& lanes,
                            SightVisit visit) {
  LookThrough work(file, control, lanes, std::move(visit));
  co_await work.run();
}

}  // namespace cofre::job
