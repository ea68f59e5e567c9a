#include "image/references.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"

namespace cofre::image {
namespace {

namespace fs = std::filesystem;

// Where a path leads. What does not exist cannot be opened either.
fs::path followed(const std::string& path) {
  std::error_code error;
  const fs::path there = fs::weakly_canonical(fs::absolute(path), error);
  if (error) fail(ErrorKind::kPermission, "'{}' cannot be followed: {}", path, error.message());
  return there;
}

bool lies_in(const fs::path& file, const fs::path& folder) {
  const auto [in_folder, in_file] = std::mismatch(folder.begin(), folder.end(), file.begin(), file.end());
  return in_folder == folder.end() || in_folder->empty();  // a folder's name may end with a slash
}

}  // namespace

References References::of(const std::string& path) const {
  References own = *this;
  if (trust != Trust::kBeside) return own;
  own.trust = Trust::kNone;
  if (!path.empty()) own.folders.push_back(followed(path).parent_path());
  return own;
}

void References::require(const std::string& path, const std::string& overlay, const std::string& what) const {
  if (trust == Trust::kAll) return;
  const fs::path file = followed(path);
  if (std::ranges::any_of(folders, [&](const std::string& f) { return lies_in(file, followed(f)); })) return;
  fail(ErrorKind::kPermission,
       "'{}' names '{}' as its {}, which is not opened: an image can name any file of this host. Allow it "
       "with "
       "--allow-backing={}, or take the image as --trusted",
       overlay, path, what, file.parent_path().string());
}

void References::require_all(const Options& named, const std::string& overlay,
                             const std::string& what) const {
  for (const auto& [key, value] : named.values())
    if (key.ends_with("filename")) require(value, overlay, what);
}

}  // namespace cofre::image
