// A disk image as a regular file: what each request of a file system does with it, whatever the protocol.
//
// Belongs to one lane. What cannot be is thrown as an Error, whose errno_value() is for the program that
// asked.
#pragma once

#include <sys/stat.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "export/exported.h"
#include "io/sync.h"

namespace cofre::fuse {

struct FileSettings {
  std::string name = {};            // for messages
  block::Device* device = nullptr;  // takes requests of any alignment; its length stays; outlives everything
  uint32_t block_bytes = 4096;      // what programs are told to use; a power of two
  bool read_only = false;
  bool others_may_open = false;  // users but the one who mounted: then mode and owner may be changed
  bool only_writer = true;       // nobody writes to the device but through this file
  exporting::LaneActivity* activity = nullptr;  // of the file's lane; outlives it; null: nobody counts
  std::function<void(const std::string&)> log = nullptr;  // any lane
};

// What is to be changed of a file's attributes.
struct AttributeChange {
  std::optional<mode_t> mode = std::nullopt;
  std::optional<uid_t> uid = std::nullopt;
  std::optional<gid_t> gid = std::nullopt;
  std::optional<uint64_t> size_bytes = std::nullopt;
  std::optional<timespec> accessed = std::nullopt;
  std::optional<timespec> modified = std::nullopt;
};

class ImageFile {
 public:
  // True: what lasts long should end early, with EINTR.
  using Interrupted = std::function<bool()>;

  explicit ImageFile(FileSettings settings);

  const FileSettings& settings() const noexcept { return settings_; }
  struct stat attributes() const;
  // All of it or, when it throws, nothing: EPERM for a shorter file, EFBIG for a longer one.
  void change_attributes(const AttributeChange& change);

  // As many bytes as there are: less than asked for at the end of the file, none past it.
  io::task<size_t> read(uint64_t offset, Bytes into);
  // As many bytes as there is room for, at least one: EFBIG at the end of the file. `durable`: on stable
  // storage when it is done.
  io::task<size_t> write(uint64_t offset, ConstBytes source, bool durable);
  // Makes what was written durable.
  io::task<void> flush();
  // fallocate(2) with its modes: holes, ranges of zeros, and space for what has none. EFBIG where the file
  // would grow, EOPNOTSUPP for other modes.
  io::task<void> allocate(int mode, uint64_t offset, uint64_t length, Interrupted interrupted);
  // lseek(2) with SEEK_DATA or SEEK_HOLE. A hole is what is known to read as zeros. ENXIO where there is
  // none.
  io::task<uint64_t> seek(uint64_t offset, int whence, Interrupted interrupted);

  void log(const std::string& line) const {
    if (settings_.log) settings_.log(settings_.name + ": " + line);
  }

 private:
  class Changing;
  class Counted;
  io::task<void> wait_until_changes_may_start();
  io::task<void> zero(uint64_t offset, uint64_t length, bool may_unmap, Interrupted interrupted);
  io::task<void> reserve(uint64_t offset, uint64_t length, Interrupted interrupted);
  io::task<void> write_again(uint64_t offset, uint64_t length, const Interrupted& interrupted);
  uint64_t length() const noexcept { return length_bytes_; }
  void note_change();

  const FileSettings settings_;
  const uint64_t length_bytes_;
  std::unique_ptr<exporting::StatusSource> status_;
  mode_t mode_;
  uid_t uid_;
  gid_t gid_;
  timespec accessed_;
  timespec modified_;
  timespec changed_;

  unsigned changes_ = 0;   // in flight, of the content
  bool standing_ = false;  // no change may start
  io::WaitQueue gate_;     // those who wait for either
};

}  // namespace cofre::fuse
