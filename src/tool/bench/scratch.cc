#include "tool/bench/scratch.h"

#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "base/error.h"
#include "base/units.h"

namespace cofre::tool {
namespace {

struct FileSystemName {
  long magic;
  std::string_view name;
};

constexpr long kXfsMagic = 0x58465342;  // linux/magic.h lacks these
constexpr long kZfsMagic = 0x2fc12fc1;

constexpr std::array<FileSystemName, 8> kFileSystems = {{
    {TMPFS_MAGIC, "tmpfs"},
    {EXT4_SUPER_MAGIC, "ext4"},
    {kXfsMagic, "xfs"},
    {BTRFS_SUPER_MAGIC, "btrfs"},
    {OVERLAYFS_SUPER_MAGIC, "overlay"},
    {F2FS_SUPER_MAGIC, "f2fs"},
    {kZfsMagic, "zfs"},
    {NFS_SUPER_MAGIC, "nfs"},
}};

struct statfs statfs_of(const std::string& directory) {
  struct statfs found = {};
  if (::statfs(directory.c_str(), &found) != 0) fail_errno(errno, "cannot work in '{}'", directory);
  return found;
}

// What the kernel thinks programs can still get without swapping.
uint64_t available_memory_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string word; file >> word;) {
    uint64_t kib = 0;
    if (word == "MemAvailable:" && file >> kib) return kib * kKiB;
  }
  return UINT64_MAX;
}

}  // namespace

uint64_t free_bytes(const std::string& directory) {
  const struct statfs found = statfs_of(directory);
  const uint64_t free = found.f_bavail * static_cast<uint64_t>(found.f_bsize);
  return found.f_type == TMPFS_MAGIC ? std::min(free, available_memory_bytes()) : free;
}

std::string file_system_name(const std::string& directory) {
  const long magic = statfs_of(directory).f_type;
  for (const FileSystemName& known : kFileSystems)
    if (known.magic == magic) return std::string(known.name);
  return fmt::format("{:#x}", magic);
}

Scratch::Scratch(const std::string& parent, const std::vector<std::string>& names)
    : folder_(parent + "/cofre-bench-XXXXXX") {
  if (mkdtemp(folder_.data()) == nullptr) fail_errno(errno, "cannot make a folder in '{}'", parent);
  guards_.push_back(std::make_unique<RemoveOnSignal>(folder_));
  for (const std::string& name : names) guards_.push_back(std::make_unique<RemoveOnSignal>(path(name)));
}

Scratch::~Scratch() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void Scratch::remove(const std::string& name) const {
  const std::string file = path(name);
  if (::unlink(file.c_str()) != 0) fail_errno(errno, "cannot remove '{}'", file);
}

}  // namespace cofre::tool
