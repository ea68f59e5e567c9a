// A host file or block device as a Device. It has no home lane: any lane reads and writes it.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>

#include "block/device.h"
#include "io/reactor.h"
#include "storage/file_lock.h"

namespace cofre::storage {

// For the file system, about a new file; one that does not know a hint does without.
struct FileHints {
  bool no_copy_on_write = false;   // Btrfs: data is overwritten in place (FS_NOCOW_FL)
  uint32_t extent_size_bytes = 0;  // XFS: space is taken in pieces of this size; 0: as the file system likes
};

struct FileOptions {
  bool read_only = false;
  bool direct = false;         // O_DIRECT: past the host's page cache
  bool no_flush = false;       // flush does nothing (cache=unsafe): a crash of the host may lose everything
  bool write_through = false;  // every write is durable when it completes (O_DSYNC)
  // Reads and writes are system calls on the calling lane, which waits for them. For bulk jobs on cached
  // files: bytes stay in the core's own cache between the copy and the cipher. A server's lanes must not
  // wait.
  bool blocking = false;
  FileLocks locks = FileLocks::none();
  FileHints hints = {};  // create() only
};

class FileDevice final : public block::Device {
 public:
  // Opens an existing file. Throws Error naming the path. System calls that open block the calling thread
  // shortly.
  static std::unique_ptr<FileDevice> open(const std::string& path, const FileOptions& options);
  // Creates an empty file, mode 0644 less the umask; an existing one is an error (kExists) unless `truncate`,
  // in which case it is emptied once its locks are held.
  static std::unique_ptr<FileDevice> create(const std::string& path, const FileOptions& options,
                                            bool truncate = false);
  ~FileDevice() override;

  const std::string& name() const override { return path_; }
  const block::Limits& limits() const override { return limits_; }
  uint64_t length_bytes() const override { return length_.load(std::memory_order_acquire); }

  io::task<void> read(uint64_t offset, Bytes destination) override;
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags = {}) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags = {}) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;
  io::task<void> flush() override;
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override;
  io::task<void> resize(uint64_t length) override;
  io::task<void> close() override;
  std::optional<uint64_t> allocated_bytes() const override;

  // Has the kernel copy bytes of another file here (copy_file_range), past this process. False: it did not
  // for all of them, for whatever reason. The calling lane waits meanwhile: for bulk jobs.
  bool copy_range(const FileDevice& source, uint64_t source_offset, uint64_t offset, uint64_t length);

  // Replaces the locks held. Throws Error kLocked and keeps the old ones.
  void set_locks(FileLocks wanted);
  bool is_block_device() const noexcept { return is_block_device_; }
  // The file's identity, to tell whether two names are one file.
  struct Identity {
    uint64_t device;
    uint64_t inode;
    bool operator==(const Identity&) const = default;
  };
  Identity identity() const;
  int fd() const noexcept { return fd_; }

 private:
  FileDevice(std::string path, int fd, const FileOptions& options);
  io::OperationAwaiter in_mode(io::OperationAwaiter transfer) const noexcept {
    transfer.blocking = options_.blocking;
    return transfer;
  }
  io::task<void> read_some(uint64_t offset, Bytes destination);
  io::task<void> write_some(uint64_t offset, ConstBytes source);
  io::task<void> write_bounced(uint64_t offset, ConstBytes source);
  io::task<void> write_zero_bytes(uint64_t offset, uint64_t length);
  io::task<bool> zero_by_fallocate(uint64_t offset, uint64_t length, bool may_unmap);
  io::task<bool> zero_in_place(uint64_t offset, uint64_t length);
  io::task<bool> punch_and_allocate(uint64_t offset, uint64_t length);
  bool fits_direct(uint64_t offset, const void* buffer, uint64_t length) const noexcept;
  void note_written_to(uint64_t end) noexcept;
  void check_writable(uint64_t offset, uint64_t length) const;
  void claim_end(uint64_t end) noexcept;
  void grow_to(uint64_t end);
  uint64_t current_length() const;
  uint64_t known_data_from(uint64_t offset) const noexcept;
  void note_data(uint64_t start, uint64_t end) noexcept;

  std::string path_;
  int fd_;
  FileOptions options_;
  block::Limits limits_;
  io::Residence residence_ = io::Residence::kUnknown;
  FileLocks held_;
  bool is_block_device_ = false;
  std::atomic<uint64_t> length_ = 0;
  // The furthest that writes, completed or in flight, may have extended the file.
  std::atomic<uint64_t> claimed_end_ = 0;
  std::mutex length_mutex_;  // held around ftruncate()
  std::atomic<bool> can_punch_ = true;
  std::atomic<bool> can_zero_range_ = true;
  std::atomic<bool> can_seek_data_ = true;
  // The data last found by map(): who walks a file in windows would else have the file system look for the
  // end of the same data again and again (in tmpfs, page by page). That it became a hole meanwhile does no
  // harm: holes read as zeros.
  mutable std::mutex known_data_mutex_;
  uint64_t known_data_start_ = 0;
  uint64_t known_data_end_ = 0;
};

// Whether two paths name one file (through links too). False when either does not exist.
bool same_file(const std::string& a, const std::string& b);

}  // namespace cofre::storage
