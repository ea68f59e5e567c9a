// The image that `cofre io` works on: opened, reopened with other options, closed. Home lane.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "image/image_name.h"
#include "image/open.h"

namespace cofre::tool {

// How an image is to be opened: what the program's options and those of `open` have in common.
struct IoOpenOptions {
  bool read_only = false;
  bool force_share = false;
  bool snapshot = false;  // writes go into memory and are gone at the end
  bool copy_on_read = false;
  std::string cache = "writeback";
  std::string discard = "unmap";
  std::string aio;  // empty: not said

  // Throws Error kInvalidArgument.
  void check() const;
};

// What `reopen` changes. Nothing: as before.
struct IoReopenChanges {
  std::optional<bool> writable;
  std::optional<image::CacheMode> cache;
  image::Options options;
};

class IoImage {
 public:
  // `secrets` outlives the image. Throws Error.
  static io::task<std::unique_ptr<IoImage>> open(image::ImageName name, IoOpenOptions options,
                                                 image::Secrets& secrets);
  ~IoImage();

  // Takes requests of any alignment. Another one after reopen().
  block::Device& device() const noexcept { return *opened_.device; }
  image::OpenedImage& opened() noexcept { return opened_; }
  bool writable() const noexcept { return policy_.writable; }
  layer::Breakpoints* breakpoints() const noexcept { return opened_.breakpoints; }

  // The file is closed and opened again; a blkdebug below it keeps its state. Nothing may be in flight.
  // Throws Error; then the image is as it was, or closed if that cannot be: is_open().
  io::task<void> reopen(IoReopenChanges changes);
  bool is_open() const noexcept { return opened_.device != nullptr; }
  // Nothing may be in flight.
  io::task<void> close();

 private:
  IoImage(image::ImageName name, IoOpenOptions options, image::OpenPolicy policy)
      : name_(std::move(name)), options_(std::move(options)), policy_(std::move(policy)) {}

  // What open_image() gives, as the commands need it.
  io::task<image::OpenedImage> open_now() const;
  io::task<void> put_overlay_over_name();

  image::ImageName name_;
  IoOpenOptions options_;
  image::OpenPolicy policy_;
  int overlay_fd_ = -1;  // the overlay of -s
  image::OpenedImage opened_;
};

}  // namespace cofre::tool
