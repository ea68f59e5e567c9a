// The images that a server has open, and the exports made of them; they come and go while it runs.
#pragma once

#include <atomic>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "export/exported.h"
#include "export/nbd/server.h"
#include "image/open.h"
#include "io/lanes.h"

namespace cofre::tool {

struct ServedImage {
  image::ImageName name;
  std::string export_name = {};
  std::string description = {};
  std::vector<std::string> bitmaps = {};            // that clients are told of
  std::optional<bool> read_only = {};               // where it is another than that of all
  std::optional<std::string> passphrase_file = {};  // of this image alone
};

// What holds for all.
struct ImagesPlan {
  image::OpenPolicy policy;           // without secrets
  image::References references = {};  // what the header of any of them may name, however it was asked for
  uint64_t offset_bytes = 0;
  bool temporary_overlay = false;  // clients write into a file that vanishes
  bool allocation_depth = false;
  bool multi_conn = true;
};

struct Served {
  ServedImage how;
  image::OpenedImage image;
  std::shared_ptr<const exporting::Export> exported;
  std::shared_ptr<const std::atomic<bool>> gone;  // nobody has the export any more
  bool fixed = false;  // somebody beside NBD clients uses it until the end: a virtual machine, a mount
};

// Home lane.
class ServedImages {
 public:
  // Both outlive it.
  ServedImages(ImagesPlan plan, image::Secrets& secrets, io::Lanes& lanes)
      : plan_(std::move(plan)), secrets_(secrets), lanes_(lanes) {}

  // Opens the image and offers it. Throws Error.
  io::task<Served*> add(ServedImage added);
  // Offers it no longer, sends its clients away and closes it. Throws what closing throws; it is gone then
  // too.
  io::task<void> remove(Served& served, nbd::Server& server);
  // At the end, when nobody uses them any more. Throws the first failure after the last one was tried.
  io::task<void> close_all();

  const exporting::ExportTable& exports() const noexcept { return exports_; }
  // In the order they were added.
  std::list<Served>& all() noexcept { return served_; }
  // Throws Error kNotFound.
  Served& find(const std::string& export_name);

 private:
  io::task<Served> open(ServedImage added, unsigned lane);

  ImagesPlan plan_;
  image::Secrets& secrets_;
  io::Lanes& lanes_;
  size_t added_ = 0;
  std::list<Served> served_;
  exporting::ExportTable exports_;
};

// Whether the image is encrypted; those below it do not count.
bool is_encrypted(const image::Layer& layer);

}  // namespace cofre::tool
