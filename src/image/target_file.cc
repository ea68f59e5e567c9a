#include "image/target_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstdlib>

#include "crypto/random.h"

namespace cofre::image {
namespace {

// The path with symbolic links followed; of a file that is not there yet, of its folder.
std::string follow_links(const std::string& path) {
  if (char* const real = realpath(path.c_str(), nullptr)) {
    std::string result = real;
    std::free(real);
    return result;
  }
  return path;
}

std::string temporary_name(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
  const std::string name = path.substr(folder.size());
  std::array<std::byte, 6> random;
  crypto::random_bytes(random);
  std::string suffix = ".cofre-";
  for (const std::byte byte : random) suffix += fmt::format("{:02x}", static_cast<unsigned>(byte));
  return folder + "." + name.substr(0, NAME_MAX - 1 - suffix.size()) + suffix;
}

void make_name_durable(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail_errno(errno, "cannot open the folder '{}'", folder);
  const int result = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  // Some file systems have nothing to sync for a folder.
  if (result != 0 && error != EINVAL) fail_errno(error, "cannot flush the folder '{}'", folder);
}

// Best effort: only root may give a file away, and some file systems have no modes.
void copy_permissions(const std::string& from, const std::string& to) {
  struct stat about = {};
  if (stat(from.c_str(), &about) != 0) return;
  const bool owned = chown(to.c_str(), about.st_uid, about.st_gid) == 0;
  const mode_t mode = about.st_mode & (owned ? 07777 : 0777);
  if (chmod(to.c_str(), mode) != 0) return;
}

}  // namespace

TargetFile::TargetFile(const std::string& path, bool elsewhere)
    : path_(path), final_path_(elsewhere ? path : follow_links(path)) {
  if (path.empty()) fail(ErrorKind::kInvalidArgument, "the name of the target is empty");
  if (elsewhere) {
    in_place_ = true;
    working_path_ = path;
    return;
  }
  struct stat about = {};
  const bool exists = stat(path.c_str(), &about) == 0;
  if (exists && S_ISDIR(about.st_mode)) fail(ErrorKind::kInvalidArgument, "'{}' is a directory", path);
  in_place_ = exists && !S_ISREG(about.st_mode);
  working_path_ = in_place_ ? path : temporary_name(final_path_);
  if (exists && !in_place_)
    existing_ = storage::FileDevice::open(path, {.locks = storage::FileLocks::format(false)});
}

TargetFile::~TargetFile() {
  if (committed_) return;
  if (!in_place_) ::unlink(working_path_.c_str());
  for (const std::string& path : beside_) ::unlink(path.c_str());
}

void TargetFile::commit(bool durable) {
  if (!in_place_) {
    if (existing_) copy_permissions(final_path_, working_path_);
    if (::rename(working_path_.c_str(), final_path_.c_str()) != 0)
      fail_errno(errno, "cannot rename '{}' to '{}'", working_path_, final_path_);
    committed_ = true;
    if (durable) make_name_durable(final_path_);
  }
  committed_ = true;
  existing_.reset();
}

Error TargetFile::renamed(const Error& error) const {
  std::string text = error.what();
  for (size_t at = text.find(working_path_); at != std::string::npos && !in_place_;
       at = text.find(working_path_, at + path_.size()))
    text.replace(at, working_path_.size(), path_);
  return Error(error.kind(), text, error.errno_value());
}

}  // namespace cofre::image
