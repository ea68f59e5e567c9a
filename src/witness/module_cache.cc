#include "witness/module_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

namespace cofre::witness {
namespace {

std::string without_deleted(const std::string& path) {
  constexpr std::string_view kDeleted = " (deleted)";
  return path.ends_with(kDeleted) ? path.substr(0, path.size() - kDeleted.size()) : path;
}

// The very file, even when its name is gone or is another file's by now; or the one that bears its name, in
// the process's view of the file system or ours. Whether it is the same shows before anything is planted.
int open_file(pid_t pid, const Mapping& mapping) {
  const std::string path = without_deleted(mapping.path);
  for (const std::string& name :
       {fmt::format("/proc/{}/map_files/{:x}-{:x}", pid, mapping.start, mapping.end),
        fmt::format("/proc/{}/root{}", pid, path), path}) {
    const int fd = ::open(name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat status = {};
    if (fd >= 0 && ::fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) return fd;
    if (fd >= 0) ::close(fd);
  }
  return -1;
}

std::shared_ptr<Module> read_module(pid_t pid, const Mapping& mapping) {
  auto module = std::make_shared<Module>();
  module->code.path = without_deleted(mapping.path);
  const int fd = open_file(pid, mapping);
  if (fd < 0) {
    module->unread = "it cannot be opened";
    return module;
  }
  try {
    module->code = read_code(fd, without_deleted(mapping.path));
    if (!module->code.is_64_bit_x86) module->unread = "it is not x86-64 code";
  } catch (const Error& error) {
    module->unread = error.what();
  }
  ::close(fd);
  module->hit.resize(module->code.sites.size());
  module->watched.resize(module->code.sites.size());
  return module;
}

}  // namespace

std::shared_ptr<Module> ModuleCache::at(pid_t pid, const Mapping& mapping) {
  std::shared_ptr<Module>& module = modules_[{mapping.device, mapping.inode}];
  if (module == nullptr) module = read_module(pid, mapping);
  return module;
}

std::vector<std::shared_ptr<Module>> ModuleCache::all() const {
  std::vector<std::shared_ptr<Module>> found;
  for (const auto& [key, module] : modules_) found.push_back(module);
  return found;
}

}  // namespace cofre::witness
