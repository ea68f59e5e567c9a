#include "tool/served_images.h"

#include <algorithm>

#include "base/error.h"
#include "export/status_sources.h"
#include "format/qcow2/bitmap_actions.h"
#include "layer/align.h"
#include "layer/window.h"
#include "tool/probed_raw.h"
#include "tool/temporary_overlay.h"

namespace cofre::tool {
namespace {

constexpr uint32_t kPreferredBytes = 4096;

// As QEMU has it: ciphers have sectors, direct I/O may want larger blocks than those, and all else takes any
// request.
uint32_t minimum_block(const ImagesPlan& plan, const image::OpenedImage& image) {
  if (plan.temporary_overlay) return 1;  // what it is made of is nobody's concern
  if (is_encrypted(image.top())) return kSectorBytes;
  const uint32_t alignment = image.device->limits().request_alignment;
  return alignment > kSectorBytes ? alignment : 1;
}

io::task<image::OpenedImage> open_image(const ImagesPlan& plan, const ServedImage& served,
                                        image::Secrets& shared) {
  image::OpenPolicy policy = plan.policy;
  if (served.read_only) policy.writable = !*served.read_only;
  image::Secrets own;
  if (served.passphrase_file) {
    crypto::SecretBytes passphrase = image::read_secret_file(*served.passphrase_file);
    image::strip_newline(passphrase);
    own.set_default(std::move(passphrase));
  }
  policy.secrets = served.passphrase_file ? &own : &shared;
  policy.bulk = false;
  if (plan.temporary_overlay) co_return co_await open_temporary_overlay(served.name, std::move(policy));
  image::OpenedImage image = co_await image::open_image(served.name, std::move(policy));
  warn_of_probed_raw(image);
  co_return image;
}

void apply_offset(image::OpenedImage& image, uint64_t offset) {
  if (offset == 0) return;
  if (offset > image.device->length_bytes())
    fail(ErrorKind::kInvalidArgument, "Offset ({}) cannot be greater than size of the containing file ({})",
         offset, image.device->length_bytes());
  image.device = layer::make_window(layer::make_aligning(std::move(image.device), 1), offset, std::nullopt);
}

// The uppermost image of the chain that has such a bitmap.
qcow2::Image& layer_with_bitmap(const image::OpenedImage& image, const std::string& bitmap) {
  for (const image::Layer& layer : image.chain) {
    if (layer.qcow2 == nullptr) continue;
    for (const qcow2::BitmapEntry& entry : qcow2::bitmaps_of(*layer.qcow2))
      if (entry.name == bitmap) return *layer.qcow2;
  }
  fail(ErrorKind::kNotFound, "Bitmap '{}' is not found", bitmap);
}

io::task<void> describe(const ImagesPlan& plan, Served& served, exporting::Export& made, unsigned lane) {
  image::OpenedImage& image = served.image;
  made.name = served.how.export_name;
  made.description = served.how.description;
  made.lane = lane;
  made.minimum_block_bytes = minimum_block(plan, image);
  made.preferred_block_bytes = kPreferredBytes;
  apply_offset(image, plan.offset_bytes);
  image.device = layer::make_aligning(std::move(image.device), 1);
  block::Device& device = *image.device;
  made.device = &device;
  made.read_only = !image.top().writable;
  made.encrypted = std::ranges::any_of(image.chain, is_encrypted);
  made.multi_conn = plan.multi_conn;
  made.statuses.push_back(exporting::make_allocation_status(device));
  if (plan.allocation_depth) made.statuses.push_back(exporting::make_depth_status(device));
  for (const std::string& bitmap : served.how.bitmaps)
    made.statuses.push_back(co_await exporting::make_bitmap_status(layer_with_bitmap(image, bitmap), bitmap));
}

}  // namespace

bool is_encrypted(const image::Layer& layer) {
  return layer.luks != nullptr ||
         (layer.qcow2 != nullptr && layer.qcow2->header().crypt_method != qcow2::CryptMethod::kNone);
}

// The last one to let go of an export says so.
io::task<Served> ServedImages::open(ServedImage added, unsigned lane) {
  Served served = {.how = std::move(added), .image = {}, .exported = nullptr, .gone = nullptr};
  served.image = co_await open_image(plan_, served.how, secrets_);
  const auto gone = std::make_shared<std::atomic<bool>>(false);
  const std::shared_ptr<exporting::Export> made(new exporting::Export, [gone](exporting::Export* exported) {
    delete exported;
    gone->store(true, std::memory_order_release);
  });
  made->activity = std::make_shared<exporting::Activity>(lanes_.count());
  std::exception_ptr failure;
  try {
    co_await describe(plan_, served, *made, lane);
  } catch (...) {
    failure = std::current_exception();
  }
  if (failure) {
    co_await served.image.close();
    std::rethrow_exception(failure);
  }
  served.exported = made;
  served.gone = gone;
  co_return served;
}

// Each image lives on a lane of its own, as far as there are lanes.
io::task<Served*> ServedImages::add(ServedImage added) {
  if (exports_.find(added.export_name))
    fail(ErrorKind::kExists, "there are two exports named '{}': give each a name of its own",
         added.export_name);
  added.name.references = plan_.references;
  const auto lane = static_cast<unsigned>(added_++ % lanes_.count());
  co_await io::enter(lanes_.lane(lane));
  std::exception_ptr failure;
  std::optional<Served> opened;
  try {
    opened.emplace(co_await open(std::move(added), lane));
  } catch (...) {
    failure = std::current_exception();
  }
  co_await io::enter(lanes_.home());
  if (failure) std::rethrow_exception(failure);
  served_.push_back(std::move(*opened));
  exports_.add(served_.back().exported);
  co_return &served_.back();
}

io::task<void> ServedImages::remove(Served& served, nbd::Server& server) {
  exports_.remove(served.how.export_name);
  const exporting::Export* const exported = served.exported.get();
  served.exported.reset();
  co_await server.send_away(exported, *served.gone);
  std::exception_ptr failure;
  try {
    co_await served.image.close();
  } catch (...) {
    failure = std::current_exception();
  }
  served_.remove_if([&](const Served& one) { return &one == &served; });
  if (failure) std::rethrow_exception(failure);
}

io::task<void> ServedImages::close_all() {
  std::exception_ptr failure;
  for (Served& served : served_) {
    try {
      co_await served.image.close();
    } catch (...) {
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

Served& ServedImages::find(const std::string& export_name) {
  const auto found = std::ranges::find_if(
      served_, [&](const Served& served) { return served.how.export_name == export_name; });
  if (found == served_.end()) fail(ErrorKind::kNotFound, "there is no export named '{}'", export_name);
  return *found;
}

}  // namespace cofre::tool
