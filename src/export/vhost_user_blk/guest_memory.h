// The memory of a virtual machine, as its front end shares it: regions of files, mapped here.
//
// Immutable, any lane. What it holds may change at any moment, by the guest: whatever is read from it for a
// decision is read once, into memory of our own.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/owned_fd.h"
#include "export/vhost_user_blk/fault_guard.h"
#include "export/vhost_user_blk/protocol.h"

namespace cofre::vhost {

// A shared mapping of a part of another process's file; unmapped at its end. Never shorter than its file when
// it is made; when the file is made shorter later, lost() tells.
class SharedMapping {
 public:
  // Throws Error: kInvalidArgument for a file that is too short or no regular one, kLimit, kIo.
  SharedMapping(int fd, uint64_t offset, uint64_t length);
  SharedMapping(const SharedMapping&) = delete;
  SharedMapping& operator=(const SharedMapping&) = delete;

  std::byte* data() const noexcept { return data_; }
  bool lost() const noexcept { return guard_->lost(); }

 private:
  struct Unmap {
    size_t length;
    void operator()(std::byte* mapped) const noexcept;
  };
  std::unique_ptr<std::byte, Unmap> mapped_;
  std::byte* data_ = nullptr;
  std::optional<FaultGuard> guard_;
};

// A run of bytes of the guest's memory.
struct Segment {
  std::byte* data = nullptr;
  size_t length = 0;
};

class GuestMemory {
 public:
  GuestMemory() = default;

  // This one and a region more, or one less. Throws Error: kInvalidArgument for a region that overlaps
  // another, that wraps, that is not there; see SharedMapping too.
  std::shared_ptr<const GuestMemory> with(const MemoryRegion& region, const OwnedFd& file) const;
  std::shared_ptr<const GuestMemory> without(const MemoryRegion& region) const;
  size_t regions() const noexcept { return regions_.size(); }

  // The bytes of the guest at `address`, appended in pieces to `into`: neighbouring ones join. False: not all
  // of them are there.
  bool append_guest_range(uint64_t address, uint64_t length, std::vector<Segment>& into) const;
  // By an address of the front end: in one piece, or null.
  std::byte* at_user_address(uint64_t address, uint64_t length) const;

  // Whether the front end took away some of it and it was missed: then nothing that was read is to be
  // trusted.
  bool lost() const noexcept;

 private:
  struct Region {
    MemoryRegion where;
    std::shared_ptr<const SharedMapping> mapping;
  };
  std::vector<Region> regions_;  // by guest address
};

}  // namespace cofre::vhost
