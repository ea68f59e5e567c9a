#include "export/fuse/image_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "export/status_sources.h"

namespace cofre::fuse {
namespace {

constexpr uint64_t kStatBlockBytes = 512;  // stat(2): of st_blocks, whatever st_blksize is
constexpr mode_t kPermissions = 0777;

// base:allocation has it of bytes that are known to be zero.
constexpr uint64_t kReadsAsZero = 2;

// Requests that may be of any length go in pieces, so that others get their turn.
constexpr uint64_t kZeroPieceBytes = kGiB;
constexpr uint64_t kCopyPieceBytes = kMiB;
constexpr unsigned kExtentsBetweenYields = 256;

timespec now() {
  timespec time = {};
  ::clock_gettime(CLOCK_REALTIME, &time);
  return time;
}

[[noreturn]] void refuse(int errno_value, const std::string& why) {
  throw Error(kind_of_errno(errno_value), why, errno_value);
}

void end_if(const ImageFile::Interrupted& interrupted) {
  if (interrupted()) refuse(EINTR, "interrupted");
}

}  // namespace

ImageFile::ImageFile(FileSettings settings)
    : settings_(std::move(settings)),
      length_bytes_(settings_.device->length_bytes()),
      status_(exporting::make_allocation_status(*settings_.device)),
      mode_(settings_.read_only ? S_IRUSR : S_IRUSR | S_IWUSR),
      uid_(::geteuid()),
      gid_(::getegid()),
      accessed_(now()),
      modified_(accessed_),
      changed_(accessed_) {}

// ---- attributes ----

struct stat ImageFile::attributes() const {
  struct stat attributes = {};
  attributes.st_ino = 1;
  attributes.st_mode = S_IFREG | mode_;
  attributes.st_nlink = 1;
  attributes.st_uid = uid_;
  attributes.st_gid = gid_;
  attributes.st_size = static_cast<off_t>(length());
  attributes.st_blksize = settings_.block_bytes;
  const uint64_t allocated_bytes = settings_.device->allocated_bytes().value_or(length());
  attributes.st_blocks = static_cast<blkcnt_t>(div_ceil(allocated_bytes, kStatBlockBytes));
  attributes.st_atim = accessed_;
  attributes.st_mtim = modified_;
  attributes.st_ctim = changed_;
  return attributes;
}

void ImageFile::change_attributes(const AttributeChange& change) {
  if (settings_.read_only) refuse(EROFS, "it is read-only");
  if (change.size_bytes && *change.size_bytes < length())
    refuse(EPERM, "a disk is not made shorter while it is mounted: 'cofre resize --shrink' does it");
  if (change.size_bytes && *change.size_bytes > length())
    refuse(EFBIG, "a disk is not made longer while it is mounted: 'cofre resize' does it");
  if (!settings_.others_may_open && (change.uid.value_or(uid_) != uid_ || change.gid.value_or(gid_) != gid_))
    refuse(EPERM, "nobody else may open it, so it keeps its owner: --fuse-allow-other on");
  if (change.mode) mode_ = *change.mode & kPermissions;
  if (change.uid) uid_ = *change.uid;
  if (change.gid) gid_ = *change.gid;
  if (change.accessed) accessed_ = *change.accessed;
  if (change.modified) modified_ = *change.modified;
  changed_ = now();
}

void ImageFile::note_change() {
  modified_ = changed_ = now();
}

// ---- bytes ----

// While it lives, a request changes the content.
class ImageFile::Changing {
 public:
  explicit Changing(ImageFile& file) noexcept : file_(file) { ++file_.changes_; }
  Changing(const Changing&) = delete;
  Changing& operator=(const Changing&) = delete;
  ~Changing() {
    if (--file_.changes_ == 0) file_.gate_.wake_all();
  }

 private:
  ImageFile& file_;
};

// A request that is counted: it failed unless done() was called. Changes begin when they may start, for
// whoever waits for those that have begun.
class ImageFile::Counted {
 public:
  Counted(const ImageFile& file, exporting::Op op) noexcept : activity_(file.settings_.activity) {
    if (activity_ != nullptr) begun_ = activity_->begin(op);
  }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() {
    if (activity_ != nullptr) activity_->end(begun_, bytes_, failed_);
  }
  void done(uint64_t bytes) noexcept {
    bytes_ = bytes;
    failed_ = false;
  }

 private:
  exporting::LaneActivity* activity_;
  exporting::LaneActivity::Begun begun_ = {};
  uint64_t bytes_ = 0;
  bool failed_ = true;
};

io::task<void> ImageFile::wait_until_changes_may_start() {
  while (standing_) co_await gate_.wait();
}

io::task<size_t> ImageFile::read(uint64_t offset, Bytes into) {
  if (offset >= length()) co_return 0;
  const size_t count = std::min<uint64_t>(into.size(), length() - offset);
  Counted counted(*this, exporting::Op::kRead);
  co_await settings_.device->read(offset, into.first(count));
  counted.done(count);
  co_return count;
}

io::task<size_t> ImageFile::write(uint64_t offset, ConstBytes source, bool durable) {
  if (settings_.read_only) refuse(EROFS, "it is read-only");
  if (source.empty()) co_return 0;
  if (offset >= length()) refuse(EFBIG, "a write past the end of the disk");
  if (standing_) co_await wait_until_changes_may_start();
  const Changing changing(*this);
  Counted counted(*this, exporting::Op::kWrite);
  const size_t count = std::min<uint64_t>(source.size(), length() - offset);
  co_await settings_.device->write(offset, source.first(count), {.fua = durable});
  note_change();
  counted.done(count);
  co_return count;
}

io::task<void> ImageFile::flush() {
  Counted counted(*this, exporting::Op::kFlush);
  co_await settings_.device->flush();
  counted.done(0);
}

// ---- space ----

io::task<void> ImageFile::allocate(int mode, uint64_t offset, uint64_t length_wanted,
                                   Interrupted interrupted) {
  if (settings_.read_only) refuse(EROFS, "it is read-only");
  const bool keeps_size = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  const int kind = mode & ~FALLOC_FL_KEEP_SIZE;
  if ((kind != 0 && kind != FALLOC_FL_ZERO_RANGE && kind != FALLOC_FL_PUNCH_HOLE) ||
      (kind == FALLOC_FL_PUNCH_HOLE && !keeps_size))
    refuse(EOPNOTSUPP, fmt::format("fallocate with mode {:#x}", mode));
  if (!keeps_size && !range_within(offset, length_wanted, length()))
    refuse(EFBIG, "fallocate past the end of the disk");
  if (offset >= length()) co_return;
  const uint64_t within = std::min(length_wanted, length() - offset);
  if (kind == 0) {
    co_await reserve(offset, within, std::move(interrupted));
  } else {
    co_await zero(offset, within, kind == FALLOC_FL_PUNCH_HOLE, std::move(interrupted));
  }
}

io::task<void> ImageFile::zero(uint64_t offset, uint64_t length_wanted, bool may_unmap,
                               Interrupted interrupted) {
  co_await wait_until_changes_may_start();
  const Changing changing(*this);
  Counted counted(*this, exporting::Op::kWriteZeroes);
  for (uint64_t done = 0; done < length_wanted;) {
    if (done > 0) end_if(interrupted);
    const uint64_t piece = std::min(length_wanted - done, kZeroPieceBytes);
    co_await settings_.device->write_zeroes(offset + done, piece, {.may_unmap = may_unmap});
    note_change();
    done += piece;
  }
  counted.done(length_wanted);
}

// Makes this layer of the image hold what it did not: by writing it as it reads. Nobody else may write there
// meanwhile: what was read would undo it.
io::task<void> ImageFile::reserve(uint64_t offset, uint64_t length_wanted, Interrupted interrupted) {
  if (!settings_.only_writer)
    refuse(EOPNOTSUPP, "space is not reserved while others may write to the image over another protocol");
  co_await wait_until_changes_may_start();
  struct Standing {
    ImageFile& file;
    explicit Standing(ImageFile& standing) noexcept : file(standing) { file.standing_ = true; }
    Standing(const Standing&) = delete;
    Standing& operator=(const Standing&) = delete;
    ~Standing() {
      file.standing_ = false;
      file.gate_.wake_all();
    }
  } const standing(*this);
  while (changes_ > 0) co_await gate_.wait();
  Counted counted(*this, exporting::Op::kWrite);
  const uint64_t first = align_down<uint64_t>(offset, kSectorBytes);
  const uint64_t end = std::min(align_up<uint64_t>(offset + length_wanted, kSectorBytes), length());
  unsigned extents = 0;
  for (uint64_t at = first; at < end;) {
    if (++extents % kExtentsBetweenYields == 0) co_await io::yield();
    end_if(interrupted);
    const block::Extent extent = co_await settings_.device->map(at, end - at);
    const bool holds = extent.allocated && extent.data && !extent.compressed;
    if (!holds) co_await write_again(at, extent.length_bytes, interrupted);
    at += extent.length_bytes;
  }
  counted.done(end - first);
}

io::task<void> ImageFile::write_again(uint64_t offset, uint64_t length_wanted,
                                      const Interrupted& interrupted) {
  AlignedBuffer buffer(std::min(length_wanted, kCopyPieceBytes));
  for (uint64_t done = 0; done < length_wanted;) {
    end_if(interrupted);
    const uint64_t piece = std::min<uint64_t>(length_wanted - done, buffer.size());
    co_await settings_.device->read(offset + done, buffer.bytes().first(piece));
    co_await settings_.device->write(offset + done, std::as_const(buffer).bytes().first(piece));
    done += piece;
  }
}

io::task<uint64_t> ImageFile::seek(uint64_t offset, int whence, Interrupted interrupted) {
  const bool for_hole = whence == SEEK_HOLE;
  if (!for_hole && whence != SEEK_DATA) refuse(EINVAL, fmt::format("lseek with {}", whence));
  if (offset >= length()) refuse(ENXIO, "lseek past the end of the disk");
  unsigned extents = 0;
  for (uint64_t at = offset; at < length();) {
    if (++extents % kExtentsBetweenYields == 0) co_await io::yield();
    end_if(interrupted);
    const exporting::StatusRun run = co_await status_->status(at, length() - at);
    if (((run.status & kReadsAsZero) != 0) == for_hole) co_return at;
    at += run.length_bytes;
  }
  if (!for_hole) refuse(ENXIO, "no data from there on");
  co_return length();  // the end counts as a hole
}

}  // namespace cofre::fuse
