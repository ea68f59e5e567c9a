#include "storage/file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "io/reactor.h"

namespace cofre::storage {
namespace {

// The zeros that write_zero_bytes writes; page-aligned for O_DIRECT.
constexpr size_t kZeroBytes = 256 * kKiB;
alignas(4096) constinit const std::byte kZeros[kZeroBytes] = {};

int open_flags(const FileOptions& options) {
  int flags = O_CLOEXEC | (options.read_only ? O_RDONLY : O_RDWR);
  if (options.direct) flags |= O_DIRECT;
  if (options.write_through) flags |= O_DSYNC;
  return flags;
}

int open_or_fail(const std::string& path, int flags, const FileOptions& options) {
  // Not blocking, lest a FIFO without a writer hold us up for good.
  const int fd = ::open(path.c_str(), flags | O_NONBLOCK | O_NOCTTY, 0644);
  if (fd >= 0) {
    const int status = fcntl(fd, F_GETFL);
    if (status >= 0) fcntl(fd, F_SETFL, status & ~O_NONBLOCK);
    return fd;
  }
  const int error = errno;
  if (error == EINVAL && options.direct)
    fail(ErrorKind::kUnsupported,
         "'{}': this file system does not do direct I/O (O_DIRECT); use another cache mode, e.g. writeback",
         path);
  fail_errno(error, "cannot open '{}'", path);
}

struct DirectAlignment {
  uint32_t memory = 4096;
  uint32_t request = 4096;
};

// What O_DIRECT asks for on this file; a page where the kernel (before 6.1) does not say.
DirectAlignment direct_alignment(int fd, bool is_block_device) {
  DirectAlignment alignment;
  struct statx about = {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &about) == 0 && (about.stx_mask & STATX_DIOALIGN) != 0 &&
      std::has_single_bit(about.stx_dio_mem_align) && std::has_single_bit(about.stx_dio_offset_align)) {
    alignment.memory = about.stx_dio_mem_align;
    alignment.request = std::max(about.stx_dio_offset_align, kSectorBytes);
  } else if (int sector = 0; is_block_device && ioctl(fd, BLKSSZGET, &sector) == 0 && sector >= 512 &&
                             std::has_single_bit(static_cast<unsigned>(sector))) {
    alignment.memory = alignment.request = static_cast<uint32_t>(sector);
  }
  return alignment;
}

io::Residence residence_of(int fd, const FileOptions& options) {
  struct statfs about = {};
  if (fstatfs(fd, &about) == 0 && (about.f_type == TMPFS_MAGIC || about.f_type == RAMFS_MAGIC))
    return io::Residence::kMemory;
  return options.direct ? io::Residence::kUnknown : io::Residence::kPageCache;
}

// File systems that do not know a hint refuse it: no harm.
void hint_no_copy_on_write(int fd) {
  int flags = 0;
  if (ioctl(fd, FS_IOC_GETFLAGS, &flags) != 0) return;
  flags |= FS_NOCOW_FL;
  ioctl(fd, FS_IOC_SETFLAGS, &flags);
}

void hint_extent_size(int fd, uint32_t bytes) {
  fsxattr attributes = {};
  if (ioctl(fd, FS_IOC_FSGETXATTR, &attributes) != 0) return;
  attributes.fsx_xflags |= FS_XFLAG_EXTSIZE;
  attributes.fsx_extsize = bytes;
  ioctl(fd, FS_IOC_FSSETXATTR, &attributes);
}

// For a file without content yet: later is too late.
void take_hints(int fd, const FileHints& hints) {
  if (hints.no_copy_on_write) hint_no_copy_on_write(fd);
  if (hints.extent_size_bytes > 0) hint_extent_size(fd, hints.extent_size_bytes);
}

// -EINTR and -EAGAIN mean "again", but not forever: some drivers answer -EAGAIN without end.
class Retries {
 public:
  bool again(int64_t result) noexcept {
    if (result == -EINTR) return true;
    if (result != -EAGAIN || left_ == 0) return false;
    --left_;
    return true;
  }

 private:
  unsigned left_ = 1000;
};

}  // namespace

FileDevice::FileDevice(std::string path, int fd, const FileOptions& options)
    : path_(std::move(path)), fd_(fd), options_(options) {
  struct stat about = {};
  if (fstat(fd_, &about) != 0) fail_errno(errno, "cannot stat '{}'", path_);
  if (S_ISDIR(about.st_mode)) fail(ErrorKind::kInvalidArgument, "'{}' is a directory, not an image", path_);
  is_block_device_ = S_ISBLK(about.st_mode);
  if (!options_.read_only && !is_block_device_ && !S_ISREG(about.st_mode))
    fail(ErrorKind::kInvalidArgument,
         "'{}' is neither a file nor a block device: no image can be written to it", path_);
  length_ = claimed_end_ = current_length();
  residence_ = residence_of(fd_, options_);
  if (options_.direct) {
    const DirectAlignment alignment = direct_alignment(fd_, is_block_device_);
    limits_.request_alignment = alignment.request;
    limits_.memory_alignment = alignment.memory;
  }
  limits_.read_only = options_.read_only;
  limits_.growable = !options_.read_only && !is_block_device_;
  limits_.grows_with_zeroes = limits_.growable;
  limits_.preferred_bytes = kMiB;
}

uint64_t FileDevice::current_length() const {
  struct stat about = {};
  if (fstat(fd_, &about) != 0) fail_errno(errno, "cannot stat '{}'", path_);
  if (S_ISREG(about.st_mode)) return static_cast<uint64_t>(about.st_size);
  if (S_ISBLK(about.st_mode)) {
    uint64_t bytes = 0;
    if (ioctl(fd_, BLKGETSIZE64, &bytes) != 0) fail_errno(errno, "cannot tell the size of '{}'", path_);
    return bytes;
  }
  const off_t end = lseek(fd_, 0, SEEK_END);
  if (end < 0) fail_errno(errno, "'{}' is neither a file nor a block device", path_);
  return static_cast<uint64_t>(end);
}

FileDevice::~FileDevice() {
  if (fd_ >= 0) ::close(fd_);
}

std::unique_ptr<FileDevice> FileDevice::open(const std::string& path, const FileOptions& options) {
  const int fd = open_or_fail(path, open_flags(options), options);
  std::unique_ptr<FileDevice> device;
  try {
    device.reset(new FileDevice(path, fd, options));
  } catch (...) {
    ::close(fd);
    throw;
  }
  device->set_locks(options.locks);
  device->length_ = device->claimed_end_ =
      device->current_length();  // who held the locks before may have changed it
  return device;
}

std::unique_ptr<FileDevice> FileDevice::create(const std::string& path, const FileOptions& options,
                                               bool truncate) {
  const int fd = open_or_fail(path, open_flags(options) | O_CREAT | (truncate ? 0 : O_EXCL), options);
  std::unique_ptr<FileDevice> device;
  try {
    device.reset(new FileDevice(path, fd, options));
  } catch (...) {
    ::close(fd);
    throw;
  }
  device->set_locks(options.locks);
  if (!device->is_block_device_) {
    if (ftruncate(fd, 0) != 0) fail_errno(errno, "cannot empty '{}'", path);
    device->length_ = device->claimed_end_ = 0;
    take_hints(fd, options.hints);
  }
  return device;
}

void FileDevice::set_locks(FileLocks wanted) {
  lock_file(fd_, path_, held_, wanted);
  held_ = wanted;
}

FileDevice::Identity FileDevice::identity() const {
  struct stat about = {};
  if (fstat(fd_, &about) != 0) fail_errno(errno, "cannot stat '{}'", path_);
  if (is_block_device_) return {UINT64_MAX, about.st_rdev};
  return {about.st_dev, about.st_ino};
}

bool FileDevice::fits_direct(uint64_t offset, const void* buffer, uint64_t length) const noexcept {
  return is_aligned(offset | length, limits_.request_alignment) &&
         is_aligned(reinterpret_cast<uintptr_t>(buffer), limits_.memory_alignment);
}

void FileDevice::check_writable(uint64_t offset, uint64_t length) const {
  if (limits_.read_only) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", path_);
  if (!range_within(offset, length, INT64_MAX))
    fail_errno(EFBIG, "cannot write {} bytes at offset {} of '{}'", length, offset, path_);
}

// Before a write starts: how far it may extend the file. ftruncate() must not cut off what such a write, not
// yet known to have completed, has put there.
void FileDevice::claim_end(uint64_t end) noexcept {
  if (end <= claimed_end_.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(length_mutex_);
  if (end > claimed_end_.load(std::memory_order_relaxed)) claimed_end_.store(end, std::memory_order_release);
}

// Makes the file at least `end` bytes long, whatever else is being appended.
void FileDevice::grow_to(uint64_t end) {
  const std::lock_guard lock(length_mutex_);
  const uint64_t target = std::max(end, claimed_end_.load(std::memory_order_relaxed));
  if (ftruncate(fd_, static_cast<off_t>(target)) != 0)
    fail_errno(errno, "cannot resize '{}' to {} bytes", path_, target);
  claimed_end_.store(target, std::memory_order_release);
  note_written_to(end);
}

void FileDevice::note_written_to(uint64_t end) noexcept {
  uint64_t known = length_.load(std::memory_order_relaxed);
  while (known < end && !length_.compare_exchange_weak(known, end, std::memory_order_acq_rel)) {
  }
}

io::task<void> FileDevice::read(uint64_t offset, Bytes destination) {
  if (fits_direct(offset, destination.data(), destination.size()) || !options_.direct)
    co_return co_await read_some(offset, destination);
  AlignedBuffer bounce(align_up(destination.size(), limits_.request_alignment));
  co_await read_some(offset, bounce.bytes());
  std::memcpy(destination.data(), bounce.data(), destination.size());
}

// Reads all of `destination`; what lies past the end of the file reads as zero.
io::task<void> FileDevice::read_some(uint64_t offset, Bytes destination) {
  Retries retries;
  while (!destination.empty()) {
    const int64_t got = co_await in_mode(io::async_read(fd_, destination, offset, residence_));
    if (retries.again(got)) continue;
    if (got < 0)
      fail_errno(static_cast<int>(-got), "cannot read {} bytes at offset {} of '{}'", destination.size(),
                 offset, path_);
    const bool at_end =
        got == 0 || (options_.direct && !is_aligned(static_cast<uint64_t>(got), limits_.request_alignment));
    destination = destination.subspan(static_cast<size_t>(got));
    if (at_end) {
      std::memset(destination.data(), 0, destination.size());
      co_return;
    }
    offset += static_cast<uint64_t>(got);
  }
}

io::task<void> FileDevice::write(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  check_writable(offset, source.size());
  claim_end(offset + source.size());
  if (!options_.direct || fits_direct(offset, source.data(), source.size())) {
    co_await write_some(offset, source);
  } else {
    co_await write_bounced(offset, source);
  }
  note_written_to(offset + source.size());
  if (flags.fua && !options_.write_through) co_await flush();
}

bool FileDevice::copy_range(const FileDevice& source, uint64_t source_offset, uint64_t offset,
                            uint64_t length) {
  // Whether a copy honours O_DSYNC is the file system's business.
  if (limits_.read_only || options_.write_through || !range_within(offset, length, INT64_MAX)) return false;
  claim_end(offset + length);
  auto from = static_cast<off64_t>(source_offset);
  auto to = static_cast<off64_t>(offset);
  while (length > 0) {
    const ssize_t copied = ::copy_file_range(source.fd_, &from, fd_, &to, length, 0);
    if (copied < 0 && errno == EINTR) continue;
    if (copied <= 0) return false;
    length -= static_cast<uint64_t>(copied);
  }
  note_written_to(static_cast<uint64_t>(to));
  return true;
}

io::task<void> FileDevice::write_some(uint64_t offset, ConstBytes source) {
  Retries retries;
  while (!source.empty()) {
    const int64_t wrote = co_await in_mode(io::async_write(fd_, source, offset, residence_));
    if (retries.again(wrote)) continue;
    if (wrote < 0)
      fail_errno(static_cast<int>(-wrote), "cannot write {} bytes at offset {} of '{}'", source.size(),
                 offset, path_);
    if (wrote == 0) fail(ErrorKind::kIo, "'{}' takes no more bytes at offset {}", path_, offset);
    offset += static_cast<uint64_t>(wrote);
    source = source.subspan(static_cast<size_t>(wrote));
  }
}

// O_DIRECT with memory or an end that it does not take: through a buffer, and the padding cut off again.
io::task<void> FileDevice::write_bounced(uint64_t offset, ConstBytes source) {
  const uint64_t padded = align_up<uint64_t>(source.size(), limits_.request_alignment);
  AlignedBuffer bounce(padded);
  std::memcpy(bounce.data(), source.data(), source.size());
  std::memset(bounce.data() + source.size(), 0, padded - source.size());
  co_await write_some(offset, bounce.bytes());
  if (is_block_device_ || padded == source.size()) co_return;
  const std::lock_guard lock(length_mutex_);
  const uint64_t end = claimed_end_.load(std::memory_order_relaxed);
  if (offset + padded > end && ftruncate(fd_, static_cast<off_t>(end)) != 0)
    fail_errno(errno, "cannot cut '{}' to {} bytes", path_, end);
}

io::task<void> FileDevice::write_zero_bytes(uint64_t offset, uint64_t length) {
  while (length > 0) {
    const uint64_t piece = std::min<uint64_t>(length, kZeroBytes);
    co_await write(offset, ConstBytes(kZeros, piece));
    offset += piece;
    length -= piece;
  }
}

// False: this file system cannot, at least not here.
io::task<bool> FileDevice::zero_by_fallocate(uint64_t offset, uint64_t length, bool may_unmap) {
  const uint64_t end = length_bytes();
  if (may_unmap && can_punch_ && offset < end) {
    note_data(0, 0);
    const uint64_t inside = std::min(length, end - offset);
    const int64_t result =
        co_await io::async_fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, inside);
    if (result == 0) {
      if (inside < length) grow_to(offset + length);
      co_return true;
    }
    if (result == -ENOTSUP || result == -ENOSYS) can_punch_ = false;
  }
  if (offset >= end && limits_.growable) {  // past the end a longer file reads as zero
    grow_to(offset + length);
    co_return true;
  }
  co_return co_await zero_in_place(offset, length);
}

// Where zeroing a range is unknown: without its old space the range reads as zero, then it gets space anew.
io::task<bool> FileDevice::punch_and_allocate(uint64_t offset, uint64_t length) {
  if (!can_punch_ || is_block_device_) co_return false;
  note_data(0, 0);
  const int64_t punched =
      co_await io::async_fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
  if (punched == -ENOTSUP || punched == -ENOSYS) can_punch_ = false;
  if (punched != 0) co_return false;
  const int64_t allocated = co_await io::async_fallocate(fd_, 0, offset, length);
  if (allocated == -ENOSPC)
    fail_errno(ENOSPC, "cannot zero {} bytes at offset {} of '{}'", length, offset, path_);
  if (allocated == 0) note_written_to(offset + length);
  co_return allocated == 0;
}

// Zeroes with the space kept or reserved.
io::task<bool> FileDevice::zero_in_place(uint64_t offset, uint64_t length) {
  if (!can_zero_range_) {
    claim_end(offset + length);
    co_return co_await punch_and_allocate(offset, length);
  }
  // Past the end plain allocation does, which more file systems (tmpfs) know than zeroing a range.
  const int mode = offset >= length_bytes() ? 0 : FALLOC_FL_ZERO_RANGE;
  claim_end(offset + length);
  const int64_t result = co_await io::async_fallocate(fd_, mode, offset, length);
  if (result == 0) {
    note_written_to(offset + length);
    co_return true;
  }
  if (result == -ENOSPC)
    fail_errno(ENOSPC, "cannot zero {} bytes at offset {} of '{}'", length, offset, path_);
  if (mode == 0 || (result != -ENOTSUP && result != -ENOSYS)) co_return false;
  can_zero_range_ = false;
  co_return co_await punch_and_allocate(offset, length);
}

io::task<void> FileDevice::write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) {
  check_writable(offset, length);
  if (length == 0) co_return;
  const bool done = flags.reserve ? co_await zero_in_place(offset, length)
                                  : co_await zero_by_fallocate(offset, length, flags.may_unmap);
  if (!done) {
    if (flags.no_fallback)
      fail(ErrorKind::kUnsupported, "'{}': the file system cannot zero a range without writing it", path_);
    co_await write_zero_bytes(offset, length);
  }
  if (flags.fua || options_.write_through) co_await flush();
}

io::task<void> FileDevice::discard(uint64_t offset, uint64_t length) {
  check_writable(offset, 0);
  const uint64_t end = length_bytes();
  if (offset >= end || length == 0 || !can_punch_) co_return;
  note_data(0, 0);
  const int64_t result = co_await io::async_fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                                                      std::min(length, end - offset));
  if (result == -ENOTSUP || result == -ENOSYS) can_punch_ = false;
}

io::task<void> FileDevice::flush() {
  if (options_.no_flush || options_.read_only) co_return;
  const int64_t result = co_await io::async_data_sync(fd_);
  if (result < 0) fail_errno(static_cast<int>(-result), "cannot flush '{}' to its disk", path_);
}

// How many bytes from `offset` on are known to be data; 0: unknown.
uint64_t FileDevice::known_data_from(uint64_t offset) const noexcept {
  const std::lock_guard lock(known_data_mutex_);
  return known_data_start_ <= offset && offset < known_data_end_ ? known_data_end_ - offset : 0;
}

void FileDevice::note_data(uint64_t start, uint64_t end) noexcept {
  const std::lock_guard lock(known_data_mutex_);
  known_data_start_ = start;
  known_data_end_ = end;
}

io::task<block::Extent> FileDevice::map(uint64_t offset, uint64_t length) {
  block::Extent extent{
      .length_bytes = length, .allocated = true, .data = true, .host_offset = offset, .host_name = path_};
  const uint64_t end = length_bytes();
  if (offset >= end) {
    extent.zero = true;
    extent.data = false;
    co_return extent;
  }
  extent.length_bytes = length = std::min(length, end - offset);
  if (!can_seek_data_ || is_block_device_) co_return extent;
  if (const uint64_t known = known_data_from(offset); known > 0) {
    extent.length_bytes = std::min(length, known);
    co_return extent;
  }
  const off_t data = lseek(fd_, static_cast<off_t>(offset), SEEK_DATA);
  if (data < 0 && errno != ENXIO) {
    can_seek_data_ = false;
    co_return extent;
  }
  if (data < 0 || static_cast<uint64_t>(data) > offset) {  // a hole
    const uint64_t hole_end = data < 0 ? end : static_cast<uint64_t>(data);
    extent.length_bytes = std::min(length, hole_end - offset);
    extent.zero = true;
    extent.data = false;
  } else {
    const off_t hole = lseek(fd_, static_cast<off_t>(offset), SEEK_HOLE);
    if (hole >= 0 && static_cast<uint64_t>(hole) > offset) {
      note_data(offset, static_cast<uint64_t>(hole));
      extent.length_bytes = std::min(length, static_cast<uint64_t>(hole) - offset);
    }
  }
  // Holes of direct-I/O files and odd file systems may not be aligned to what requests need.
  const uint64_t aligned = align_up(extent.length_bytes, limits_.request_alignment);
  if (aligned != extent.length_bytes && aligned <= length) {
    extent.length_bytes = aligned;
    extent.zero = false;
    extent.data = true;
  }
  co_return extent;
}

io::task<void> FileDevice::resize(uint64_t length) {
  if (limits_.read_only) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", path_);
  if (is_block_device_) {
    if (length <= length_bytes()) co_return;
    fail(ErrorKind::kInvalidArgument, "the block device '{}' has {} bytes and cannot grow to {}", path_,
         length_bytes(), length);
  }
  const std::lock_guard lock(length_mutex_);
  if (length > INT64_MAX || ftruncate(fd_, static_cast<off_t>(length)) != 0)
    fail_errno(length > INT64_MAX ? EFBIG : errno, "cannot resize '{}' to {} bytes", path_, length);
  length_ = claimed_end_ = length;
  note_data(0, 0);
}

io::task<void> FileDevice::close() {
  if (fd_ < 0) co_return;
  if (!options_.read_only) co_await flush();
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0 && errno != EINTR) fail_errno(errno, "cannot close '{}'", path_);
}

std::optional<uint64_t> FileDevice::allocated_bytes() const {
  struct stat about = {};
  if (fstat(fd_, &about) != 0) return std::nullopt;
  return static_cast<uint64_t>(about.st_blocks) * 512;
}

bool same_file(const std::string& a, const std::string& b) {
  struct stat of_a = {};
  struct stat of_b = {};
  if (stat(a.c_str(), &of_a) != 0 || stat(b.c_str(), &of_b) != 0) return false;
  return of_a.st_dev == of_b.st_dev && of_a.st_ino == of_b.st_ino;
}

}  // namespace cofre::storage
