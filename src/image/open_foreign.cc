#include "image/open_foreign.h"

#include "base/error.h"
#include "format/foreign/vdi.h"
#include "format/foreign/vhdx.h"
#include "format/foreign/vmdk.h"
#include "layer/align.h"

namespace cofre::image {
namespace {

// Tables and compressed data start anywhere.
std::unique_ptr<block::Device> byte_aligned(std::unique_ptr<block::Device> file) {
  return layer::make_aligning(std::move(file), 1);
}

// `name` is one without a slash: the file is in the image's folder, whatever else the name has in it.
std::unique_ptr<block::Device> open_extent(const ForeignSource& source, const std::string& name) {
  if (!source.has_folder)
    fail(ErrorKind::kUnsupported, "'{}' is no file of this host, and its file '{}' lies beside it",
         source.path, name);
  const size_t folder_bytes = source.path.rfind('/') + 1;  // 0 where there is none
  const std::string path = source.path.substr(0, folder_bytes) + name;
  source.references.require(path, source.path, "extent");
  return byte_aligned(storage::FileDevice::open(path, source.extent_files));
}

}  // namespace

io::task<std::unique_ptr<foreign::Image>> open_foreign(ForeignSource source,
                                                       std::unique_ptr<block::Device> file) {
  std::unique_ptr<block::Device> bytes = byte_aligned(std::move(file));
  switch (source.format) {
    case Format::kVdi:
      co_return co_await foreign::Vdi::open(std::move(bytes));
    case Format::kVhdx:
      co_return co_await foreign::Vhdx::open(std::move(bytes));
    case Format::kVpc:
      co_return co_await foreign::Vpc::open(std::move(bytes), source.vpc_size);
    default:
      co_return co_await foreign::Vmdk::open(
          std::move(bytes), [&source](const std::string& name) { return open_extent(source, name); });
  }
}

foreign::VpcSize take_vpc_size(Options& options) {
  const std::optional<std::string> text = options.take("force_size_calc");
  if (!text) return foreign::VpcSize::kByCreator;
  if (text == "current_size") return foreign::VpcSize::kCurrentSize;
  if (text == "chs") return foreign::VpcSize::kGeometry;
  fail(ErrorKind::kInvalidArgument, "force_size_calc={}: use current_size or chs", *text);
}

void require_writable(Format format, const std::string& path) {
  if (is_writable_format(format)) return;
  fail(ErrorKind::kReadOnly, "'{}': Cofre only reads images of format {}: open it read-only, or convert it",
       path, format_name(format));
}

}  // namespace cofre::image
