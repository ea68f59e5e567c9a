#include "storage/file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
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
  const int fd = ::open(path.c_str(), flags, 0666);
  if (fd >= 0) return fd;
  const int error = errno;
  if (error == EINVAL && options.direct)
    fail(ErrorKind::kUnsupported,
         "'{}': this file system does not do direct I/O (O_DIRECT); use another cache mode, e.g. writeback", path);
  fail_errno(error, "cannot open '{}'", path);
}

uint32_t direct_alignment(int fd) {
  struct statx about = {};
  if (statx(fd, "", AT_EMPTY_PATH, 0x2000 /* STATX_DIOALIGN, Linux 6.1 */, &about) == 0 &&
      (about.stx_mask & 0x2000) != 0) {
    // struct statx of older headers lacks the fields: memory and offset alignment follow stx_mnt_id.
    uint32_t alignment[2];
    std::memcpy(alignment, reinterpret_cast<const std::byte*>(&about) + 0x98, sizeof alignment);
    const uint32_t larger = std::max(alignment[0], alignment[1]);
    if (larger != 0 && (larger & (larger - 1)) == 0) return std::max(larger, kSectorBytes);
  }
  return 4096;
}

}  // namespace

FileDevice::FileDevice(std::string path, int fd, const FileOptions& options)
    : path_(std::move(path)), fd_(fd), options_(options) {
  struct stat about = {};
  if (fstat(fd_, &about) != 0) fail_errno(errno, "cannot stat '{}'", path_);
  if (S_ISDIR(about.st_mode)) fail(ErrorKind::kInvalidArgument, "'{}' is a directory, not an image", path_);
  is_block_device_ = S_ISBLK(about.st_mode);
  if (is_block_device_) {
    uint64_t bytes = 0;
    if (ioctl(fd_, BLKGETSIZE64, &bytes) != 0) fail_errno(errno, "cannot tell the size of '{}'", path_);
    length_ = bytes;
  } else if (S_ISREG(about.st_mode)) {
    length_ = static_cast<uint64_t>(about.st_size);
  } else {
    const off_t end = lseek(fd_, 0, SEEK_END);
    if (end < 0) fail_errno(errno, "'{}' is neither a file nor a block device", path_);
    length_ = static_cast<uint64_t>(end);
  }
  if (options_.direct) limits_.request_alignment = limits_.memory_alignment = direct_alignment(fd_);
  limits_.read_only = options_.read_only;
  limits_.growable = !options_.read_only && !is_block_device_;
  limits_.grows_with_zeroes = limits_.growable;
  limits_.preferred_bytes = kMiB;
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
  return device;
}

std::unique_ptr<FileDevice> FileDevice::create(const std::string& path, const FileOptions& options, bool truncate) {
  const int fd = open_or_fail(path, open_flags(options) | O_CREAT | (truncate ? 0 : O_EXCL), options);
  std::unique_ptr<FileDevice> device;
  try {
    device.reset(new FileDevice(path, fd, options));
  } catch (...) {
    ::close(fd);
    throw;
  }
  device->set_locks(options.locks);
  if (!device->is_block_device_ && device->length_ != 0) {
    if (ftruncate(fd, 0) != 0) fail_errno(errno, "cannot empty '{}'", path);
    device->length_ = 0;
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
  const uint64_t mask = limits_.request_alignment - 1;
  return ((offset | length | reinterpret_cast<uintptr_t>(buffer)) & mask) == 0;
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
  while (!destination.empty()) {
    const int64_t got = co_await io::async_read(fd_, destination, offset);
    if (got == -EINTR || got == -EAGAIN) continue;
    if (got < 0)
      fail_errno(static_cast<int>(-got), "cannot read {} bytes at offset {} of '{}'", destination.size(), offset, path_);
    if (got == 0) {
      std::memset(destination.data(), 0, destination.size());
      co_return;
    }
    offset += static_cast<uint64_t>(got);
    destination = destination.subspan(static_cast<size_t>(got));
  }
}

io::task<void> FileDevice::write(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  if (limits_.read_only) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", path_);
  if (!options_.direct || fits_direct(offset, source.data(), source.size())) {
    co_await write_some(offset, source);
  } else {
    co_await write_bounced(offset, source);
  }
  note_written_to(offset + source.size());
  if (flags.fua && !options_.write_through) co_await flush();
}

io::task<void> FileDevice::write_some(uint64_t offset, ConstBytes source) {
  while (!source.empty()) {
    const int64_t wrote = co_await io::async_write(fd_, source, offset);
    if (wrote == -EINTR || wrote == -EAGAIN) continue;
    if (wrote < 0)
      fail_errno(static_cast<int>(-wrote), "cannot write {} bytes at offset {} of '{}'", source.size(), offset, path_);
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
  const uint64_t length_before = length_bytes();
  co_await write_some(offset, bounce.bytes());
  const uint64_t end = std::max(length_before, offset + source.size());
  if (!is_block_device_ && offset + padded > end && ftruncate(fd_, static_cast<off_t>(end)) != 0)
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
    const uint64_t inside = std::min(length, end - offset);
    const int64_t result =
        co_await io::async_fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, inside);
    if (result == 0 && inside == length) co_return true;
    if (result == 0) {
      co_await resize(std::max(length_bytes(), offset + length));
      co_return true;
    }
    if (result == -ENOTSUP || result == -ENOSYS) can_punch_ = false;
  }
  if (offset >= end && limits_.growable) {  // past the end a longer file reads as zero
    co_await resize(std::max(length_bytes(), offset + length));
    co_return true;
  }
  if (can_zero_range_) {
    const int64_t result = co_await io::async_fallocate(fd_, FALLOC_FL_ZERO_RANGE, offset, length);
    if (result == 0) {
      note_written_to(offset + length);
      co_return true;
    }
    if (result == -ENOTSUP || result == -ENOSYS) can_zero_range_ = false;
    if (result == -ENOSPC) fail_errno(ENOSPC, "cannot zero {} bytes at offset {} of '{}'", length, offset, path_);
  }
  co_return false;
}

io::task<void> FileDevice::write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) {
  if (limits_.read_only) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", path_);
  if (length == 0) co_return;
  const bool done = co_await zero_by_fallocate(offset, length, flags.may_unmap);
  if (!done) {
    if (flags.no_fallback)
      fail(ErrorKind::kUnsupported, "'{}': the file system cannot zero a range without writing it", path_);
    co_await write_zero_bytes(offset, length);
  }
  if (flags.fua) co_await flush();
}

io::task<void> FileDevice::discard(uint64_t offset, uint64_t length) {
  if (limits_.read_only) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", path_);
  const uint64_t end = length_bytes();
  if (offset >= end || length == 0 || !can_punch_) co_return;
  const int64_t result = co_await io::async_fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset,
                                                      std::min(length, end - offset));
  if (result == -ENOTSUP || result == -ENOSYS) can_punch_ = false;
}

io::task<void> FileDevice::flush() {
  if (options_.no_flush || options_.read_only) co_return;
  const int64_t result = co_await io::async_data_sync(fd_);
  if (result < 0) fail_errno(static_cast<int>(-result), "cannot flush '{}' to its disk", path_);
}

io::task<block::Extent> FileDevice::map(uint64_t offset, uint64_t length) {
  block::Extent extent{.length_bytes = length, .allocated = true, .data = true, .host_offset = offset, .host_name = path_};
  const uint64_t end = length_bytes();
  if (offset >= end) {
    extent.zero = true;
    extent.data = false;
    co_return extent;
  }
  extent.length_bytes = length = std::min(length, end - offset);
  if (!can_seek_data_ || is_block_device_) co_return extent;
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
    if (hole >= 0 && static_cast<uint64_t>(hole) > offset)
      extent.length_bytes = std::min(length, static_cast<uint64_t>(hole) - offset);
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
    fail(ErrorKind::kInvalidArgument, "the block device '{}' has {} bytes and cannot grow to {}", path_, length_bytes(),
         length);
  }
  if (ftruncate(fd_, static_cast<off_t>(length)) != 0) fail_errno(errno, "cannot resize '{}' to {} bytes", path_, length);
  length_ = length;
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
