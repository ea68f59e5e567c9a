// A new image file that appears under its name only when it is complete.
//
// It is written under a hidden temporary name in the same folder and renamed over the target at the end;
// until then an existing target stays as it is, locked against other writers. Block devices and other special
// files, and storage that is no file of this host, are written in place: `in_place()`.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "storage/file.h"

namespace cofre::image {

class TargetFile {
 public:
  // Chooses the temporary name; creates nothing yet. Follows symbolic links. Throws Error: kLocked when
  // another process uses an existing target, others when it could not be written.
  // `elsewhere`: the name is not one of this host's file system.
  explicit TargetFile(const std::string& path, bool elsewhere = false);
  // Removes the temporary file, and those made beside it, unless commit() was called.
  ~TargetFile();
  TargetFile(const TargetFile&) = delete;
  TargetFile& operator=(const TargetFile&) = delete;

  const std::string& path() const noexcept { return path_; }
  // Where the image is to be created.
  const std::string& working_path() const noexcept { return working_path_; }
  bool in_place() const noexcept { return in_place_; }
  // What is to be removed when nothing comes of it; empty when the image is created in place.
  std::string temporary_path() const { return in_place_ ? "" : working_path_; }

  // A new file that has its own name from the start, and is nothing without this one.
  void made_beside(std::string path) { beside_.push_back(std::move(path)); }

  // Puts the finished file in the target's place, with an existing target's permissions, and makes the new
  // name durable if `durable`. The file must be closed. Throws Error.
  void commit(bool durable);
  // The same error with the target's name where it had the temporary one.
  Error renamed(const Error& error) const;

 private:
  std::string path_;        // as the user wrote it
  std::string final_path_;  // links followed
  std::string working_path_;
  std::unique_ptr<storage::FileDevice>
      existing_;  // open and locked, so that nobody starts to use it meanwhile
  std::vector<std::string> beside_;
  bool in_place_ = false;
  bool committed_ = false;
};

}  // namespace cofre::image
