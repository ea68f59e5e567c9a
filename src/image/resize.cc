#include "image/resize.h"

#include <algorithm>
#include <exception>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "io/reactor.h"

namespace cofre::image {
namespace {

using qcow2::Preallocation;

io::task<void> write_zero_bytes(storage::FileDevice& file, uint64_t begin, uint64_t end) {
  AlignedBuffer zeros(kMiB);
  std::fill_n(zeros.data(), zeros.size(), std::byte{0});
  while (begin < end) {
    const uint64_t piece = std::min<uint64_t>(zeros.size() - begin % zeros.size(), end - begin);
    co_await file.write(begin, zeros.bytes().first(piece));
    begin += piece;
  }
}

void require_file_preallocation(const std::string& name, Preallocation mode) {
  if (mode == Preallocation::kMetadata)
    fail(ErrorKind::kUnsupported,
         "'{}': Unsupported preallocation mode: metadata; only qcow2 images have it, this one has falloc and "
         "full",
         name);
}

// Space on the disk for a part of the file.
io::task<void> reserve(storage::FileDevice& file, uint64_t begin, uint64_t end) {
  if (begin >= end) co_return;
  const int64_t result = co_await io::async_fallocate(file.fd(), 0, begin, end - begin);
  if (result < 0)
    fail_errno(static_cast<int>(-result), "cannot reserve {} bytes for '{}'", end - begin, file.name());
}

// The file of this host that the layer is, to reserve space in it.
storage::FileDevice& host_file_of(const Layer& layer, Preallocation mode) {
  if (layer.host_file == nullptr)
    fail(ErrorKind::kUnsupported,
         "'{}': space can be reserved in a file of this host only: --preallocation={}", layer.path,
         mode == Preallocation::kFull ? "full" : "falloc");
  return *layer.host_file;
}

io::task<void> resize_luks(const Layer& layer, uint64_t length, Preallocation mode) {
  luks::LuksContainer& container = *layer.luks;
  require_file_preallocation(layer.path, mode);
  if (mode == Preallocation::kFull) co_return co_await container.resize(length);
  if (mode == Preallocation::kOff) co_return co_await container.resize_sparse(length);
  storage::FileDevice& file = host_file_of(layer, mode);
  const uint64_t before = file.length_bytes();
  co_await container.resize_sparse(length);
  co_await reserve(file, before, file.length_bytes());
}

io::task<void> resize_qcow2(qcow2::Image& image, uint64_t length, Preallocation mode) {
  const uint64_t before = image.length_bytes();
  co_await image.resize(length);
  if (length > before) co_await image.preallocate(mode, before);
}

io::task<void> resize_layer(const Layer& layer, uint64_t length, Preallocation mode) {
  if (layer.qcow2 != nullptr) return resize_qcow2(*layer.qcow2, length, mode);
  if (layer.luks != nullptr) return resize_luks(layer, length, mode);
  if (mode == Preallocation::kOff) return layer.device->resize(length);
  return resize_file(host_file_of(layer, mode), length, mode);
}

}  // namespace

Preallocation parse_preallocation(std::string_view name) {
  if (name == "off") return Preallocation::kOff;
  if (name == "metadata") return Preallocation::kMetadata;
  if (name == "falloc") return Preallocation::kFalloc;
  if (name == "full") return Preallocation::kFull;
  fail(ErrorKind::kInvalidArgument, "Invalid preallocation mode '{}': there are off, metadata, falloc, full",
       name);
}

io::task<void> preallocate_file(storage::FileDevice& file, uint64_t begin, uint64_t end, Preallocation mode) {
  require_file_preallocation(file.name(), mode);
  if (mode == Preallocation::kFalloc) co_await reserve(file, begin, end);
  if (mode == Preallocation::kFull) co_await write_zero_bytes(file, begin, end);
}

io::task<void> resize_file(storage::FileDevice& file, uint64_t length, Preallocation mode) {
  require_file_preallocation(file.name(), mode);
  const uint64_t before = file.length_bytes();
  co_await file.resize(length);
  co_await preallocate_file(file, before, length, mode);
}

io::task<void> resize_image(OpenedImage& image, uint64_t length, Preallocation mode) {
  const Layer& top = image.top();
  const uint64_t before = top.device->length_bytes();
  std::exception_ptr failure;
  try {
    co_await resize_layer(top, length, mode);
  } catch (...) {
    failure = std::current_exception();
  }
  if (!failure) co_return;
  // Half of a preallocation is not what was asked for.
  if (top.device->length_bytes() > before) {
    try {
      co_await resize_layer(top, before, Preallocation::kOff);
    } catch (const Error&) {  // the first error is what the user should know
    }
  }
  std::rethrow_exception(failure);
}

}  // namespace cofre::image
