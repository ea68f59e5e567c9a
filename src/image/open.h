// From a name to a Device: opens files, tells formats apart, follows backing chains, brings secrets to
// ciphers.
//
// A chain is bounded in depth and checked for loops by the identity of its files. Everything below the top is
// opened read-only, but for one layer where the policy asks for that. Runs on the home lane; secrets belong
// to it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "format/foreign/image.h"
#include "format/luks/luks_container.h"
#include "format/qcow2/image.h"
#include "image/image_name.h"
#include "image/secrets.h"
#include "layer/blkdebug.h"
#include "storage/file.h"

namespace cofre::image {

// How the host's caches are used: -t and -T.
struct CacheMode {
  bool direct = false;         // none, directsync
  bool write_through = false;  // writethrough, directsync
  bool no_flush = false;       // unsafe
};
// "none", "writeback", "writethrough", "directsync", "unsafe". Throws Error kInvalidArgument.
CacheMode parse_cache_mode(std::string_view name);

enum class Keys {
  kNeeded,  // an encrypted image without its secret is an error
  kUnused,  // content is neither read nor written: open locked, take no secret
};

struct OpenPolicy {
  bool writable = false;
  bool force_share = false;  // -U: bears other writers; read-only
  // The layer below the top that is opened writable too: the backing file of this name, beside the overlay
  // that names it, or of an empty name: the top's own. Layer::writable tells whether there is one.
  std::optional<std::string> writable_backing = std::nullopt;
  bool force_share_below = false;  // bears other writers of the layers below the top
  bool no_backing = false;         // the top only: what lies below reads as zero
  bool exclusive = false;          // refuses other writers of a raw image too (a format's image always does)
  bool headers_only = false;       // as info: a raw image and force_share take no locks at all
  bool for_check = false;          // qcow2: open although the tables are bad
  // qcow2, the top only: puts a device over its file, whose requests are of whole sectors.
  std::function<std::unique_ptr<block::Device>(std::unique_ptr<block::Device>)> wrap_file = nullptr;
  Keys keys = Keys::kNeeded;
  CacheMode cache = {};
  std::optional<CacheMode> cache_below = std::nullopt;  // of the layers below the top, where it is another
  bool bulk = true;  // a job has the lanes to itself: transfers through the host's cache may block them
  unsigned max_chain = 200;
  Secrets* secrets = nullptr;  // outlives the call
  std::string label = {};      // the name for messages and for Secrets::for_image; empty: the image's own
  // The top as it was when this internal snapshot was taken, read-only: see snapshot_param.h.
  std::optional<std::string> snapshot = std::nullopt;
  const luks::Luks1Volume* volume = nullptr;  // the top's, from whoever just made it; outlives the call
  // Gets the top's LUKS volume, if it has one: for whoever changes its keyslots. Outlives the call.
  std::optional<luks::Luks1Volume>* unlocked = nullptr;
};

// One image of a chain: views into the devices of OpenedImage.
struct Layer {
  std::string path;             // of its file; the name of other storage
  std::string shown_name = {};  // as info shows it: the path where that says all
  std::string driver = {};      // as info shows it: the format, or the filter or storage that the image is
  Format format = Format::kRaw;
  bool probed = false;  // the format was told by the content
  bool writable = false;
  bool tells_nothing = false;                // its storage, of itself: see node.h
  block::Device* device = nullptr;           // as seen by readers
  block::Device* file = nullptr;             // where it is stored
  storage::FileDevice* host_file = nullptr;  // the same, if that is a file of this host
  block::Device* data_file = nullptr;        // qcow2, if it has one
  block::Device* header_file = nullptr;      // luks, if its header is detached
  qcow2::Image* qcow2 = nullptr;             // one of these for the formats that have them
  luks::LuksContainer* luks = nullptr;
  foreign::Image* foreign = nullptr;
  std::optional<std::string> key_secret = {};  // the secret's id, where one was named
};

struct OpenedImage {
  std::unique_ptr<block::Device> device;
  std::vector<Layer> chain;                   // the top first
  layer::Breakpoints* breakpoints = nullptr;  // of the blkdebug that the top stands on, if it does

  const Layer& top() const { return chain.front(); }
  io::task<void> close() { return device->close(); }
};

// Awaits `work` and closes the image, also when it failed: what was written then is put in order as far as
// that goes, and the failure of the work is thrown.
io::task<void> close_after(OpenedImage& image, io::task<void> work);

// Throws Error; its sentence names the image, and for a backing file the overlay that asked for it.
io::task<OpenedImage> open_image(ImageName name, OpenPolicy policy);

}  // namespace cofre::image
