// check --backup and --restore: what a repair changes, kept and put back. Home lane.
#pragma once

#include <memory>
#include <string>

#include "image/open.h"
#include "layer/undo_log.h"

namespace cofre::tool {

// Makes the new file `path` (Error kExists where there is one), and has it get what the file of the image
// held before each change. To be called before the image is opened with the policy; note_identity() when it
// is.
class CheckBackup {
 public:
  explicit CheckBackup(std::string path) : path_(std::move(path)) {}

  void add_to(image::OpenPolicy& policy);
  void note_identity(const image::Layer& top);
  // While the image is open.
  uint64_t bytes_kept() const { return log_ != nullptr ? log_->bytes_kept() : 0; }

 private:
  std::string path_;
  layer::UndoLog* log_ = nullptr;  // owned by the image
};

// The image is open for writing. Throws Error as put_back() does.
io::task<uint64_t> restore_backup(const std::string& path, const image::Layer& top);

}  // namespace cofre::tool
