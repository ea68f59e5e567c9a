#include "tool/check_backup.h"

#include <fmt/format.h>

#include "base/error.h"
#include "crypto/digest.h"

namespace cofre::tool {
namespace {

// Of what no repair changes.
layer::UndoIdentity identity_of(const qcow2::Image& image) {
  const qcow2::Header& header = image.header();
  const std::string facts =
      fmt::format("qcow2 {} {} {} {} {} {} {} {}", header.version, header.cluster_bits, header.size_bytes,
                  static_cast<uint32_t>(header.crypt_method), header.l1_entries, header.l1_table_offset,
                  header.crypt_header ? header.crypt_header->offset : 0, header.backing_file.value_or(""));
  layer::UndoIdentity identity;
  crypto::digest(crypto::DigestAlgorithm::sha256, std::as_bytes(std::span(facts)), identity);
  return identity;
}

const qcow2::Image& require_qcow2(const image::Layer& top) {
  if (top.qcow2 == nullptr)
    fail(ErrorKind::kUnsupported, "'{}' is no qcow2 image: there is nothing to restore", top.path);
  return *top.qcow2;
}

io::task<void> cut_to(block::Device& file, uint64_t length) {
  if (file.length_bytes() == length) co_return;
  co_await file.resize(length);
  co_await file.flush();
}

}  // namespace

void CheckBackup::add_to(image::OpenPolicy& policy) {
  policy.wrap_file = [this](std::unique_ptr<block::Device> file) {
    std::unique_ptr<block::Device> log = storage::FileDevice::create(path_, {});
    const uint64_t length = file->length_bytes();
    auto logged = std::make_unique<layer::UndoLog>(std::move(file), std::move(log), length);
    log_ = logged.get();
    return logged;
  };
}

void CheckBackup::note_identity(const image::Layer& top) {
  if (log_ == nullptr)
    fail(ErrorKind::kUnsupported, "'{}' is no qcow2 image: there is nothing to repair", top.path);
  log_->set_identity(identity_of(*top.qcow2));
}

io::task<uint64_t> restore_backup(const std::string& path, const image::Layer& top) {
  const layer::UndoIdentity identity = identity_of(require_qcow2(top));
  const std::unique_ptr<block::Device> log = storage::FileDevice::open(path, {.read_only = true});
  block::Device& file = *top.file;
  const uint64_t bytes = co_await layer::put_back(
      *log, {.device = top.qcow2->file(), .identity = identity, .cut = [&file](uint64_t length) {
               return cut_to(file, length);
             }});
  co_await log->close();
  co_return bytes;
}

}  // namespace cofre::tool
