#include "export/vhost_user_blk/guest_memory.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>

#include "base/checked.h"
#include "base/error.h"

namespace cofre::vhost {
namespace {

constexpr uint64_t kPageBytes = 4096;

// Of the file's pages: mappings begin and end at one.
uint64_t page_bytes_of(int fd) {
  struct statfs about = {};
  if (::fstatfs(fd, &about) != 0) fail_errno(errno, "cannot look at a file of the guest's memory");
  const bool huge = about.f_type == HUGETLBFS_MAGIC && about.f_bsize > 0;
  return huge ? static_cast<uint64_t>(about.f_bsize) : kPageBytes;
}

void check_file(int fd, uint64_t offset, uint64_t length) {
  struct stat about = {};
  if (::fstat(fd, &about) != 0) fail_errno(errno, "cannot look at a file of the guest's memory");
  if (!S_ISREG(about.st_mode))
    fail(ErrorKind::kInvalidArgument,
         "the guest's memory is no file that can be shared: give QEMU a memory-backend-memfd or "
         "memory-backend-file with share=on");
  if (length == 0 || !range_within(offset, length, static_cast<uint64_t>(about.st_size)))
    fail(ErrorKind::kInvalidArgument, "a memory region of {} bytes at offset {} of a file of {} bytes",
         length, offset, about.st_size);
}

bool overlap(uint64_t a, uint64_t b, uint64_t a_length, uint64_t b_length) {
  return a < b + b_length && b < a + a_length;
}

}  // namespace

void SharedMapping::Unmap::operator()(std::byte* mapped) const noexcept {
  ::munmap(mapped, length);
}

SharedMapping::SharedMapping(int fd, uint64_t offset, uint64_t length) {
  check_file(fd, offset, length);
  const uint64_t page_bytes = page_bytes_of(fd);
  const uint64_t before = offset % page_bytes;
  const uint64_t mapped_bytes = align_up<uint64_t>(before + length, page_bytes);
  void* const mapped = ::mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                              static_cast<off_t>(offset - before));
  if (mapped == MAP_FAILED) fail_errno(errno, "cannot map {} bytes of the guest's memory", length);
  auto* const bytes = static_cast<std::byte*>(mapped);
  mapped_ = {bytes, Unmap{mapped_bytes}};
  ::madvise(mapped, mapped_bytes, MADV_DONTDUMP);
  data_ = bytes + before;
  guard_.emplace(bytes, mapped_bytes, page_bytes);
}

std::shared_ptr<const GuestMemory> GuestMemory::with(const MemoryRegion& region, const OwnedFd& file) const {
  if (!checked_add(region.guest_address, region.size) || !checked_add(region.user_address, region.size) ||
      !checked_add(region.map_offset, region.size))
    fail(ErrorKind::kInvalidArgument, "a memory region of {} bytes at {:#x} wraps", region.size,
         region.guest_address);
  for (const Region& other : regions_) {
    if (overlap(other.where.guest_address, region.guest_address, other.where.size, region.size) ||
        overlap(other.where.user_address, region.user_address, other.where.size, region.size))
      fail(ErrorKind::kInvalidArgument, "memory regions at {:#x} and {:#x} overlap",
           other.where.guest_address, region.guest_address);
  }
  auto made = std::make_shared<GuestMemory>(*this);
  const auto behind = std::ranges::find_if(
      made->regions_, [&](const Region& other) { return other.where.guest_address > region.guest_address; });
  made->regions_.insert(
      behind, {region, std::make_shared<SharedMapping>(file.get(), region.map_offset, region.size)});
  return made;
}

std::shared_ptr<const GuestMemory> GuestMemory::without(const MemoryRegion& region) const {
  auto made = std::make_shared<GuestMemory>(*this);
  const auto removed = std::erase_if(made->regions_, [&](const Region& other) {
    return other.where.guest_address == region.guest_address &&
           other.where.user_address == region.user_address && other.where.size == region.size;
  });
  if (removed == 0)
    fail(ErrorKind::kInvalidArgument, "there is no memory region of {} bytes at {:#x}", region.size,
         region.guest_address);
  return made;
}

bool GuestMemory::append_guest_range(uint64_t address, uint64_t length, std::vector<Segment>& into) const {
  auto behind = std::ranges::upper_bound(regions_, address, {},
                                         [](const Region& region) { return region.where.guest_address; });
  while (length > 0) {
    if (behind == regions_.begin()) return false;
    const Region& region = *std::prev(behind);
    const uint64_t offset = address - region.where.guest_address;
    if (offset >= region.where.size) return false;
    const uint64_t here = std::min(length, region.where.size - offset);
    std::byte* const data = region.mapping->data() + offset;
    if (!into.empty() && into.back().data + into.back().length == data) {
      into.back().length += here;
    } else {
      into.push_back({data, here});
    }
    address += here;
    length -= here;
    // What goes on lies in the next region, if that one begins just here.
    if (length > 0 && (behind == regions_.end() || behind->where.guest_address != address)) return false;
    if (length > 0) ++behind;
  }
  return true;
}

std::byte* GuestMemory::at_user_address(uint64_t address, uint64_t length) const {
  for (const Region& region : regions_) {
    if (address < region.where.user_address) continue;
    const uint64_t offset = address - region.where.user_address;
    if (range_within(offset, length, region.where.size)) return region.mapping->data() + offset;
  }
  return nullptr;
}

bool GuestMemory::lost() const noexcept {
  return std::ranges::any_of(regions_, [](const Region& region) { return region.mapping->lost(); });
}

}  // namespace cofre::vhost
