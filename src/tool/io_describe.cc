// The commands of `cofre io` that tell what an image is and what it holds.
#include <fmt/format.h>

#include <algorithm>

#include "base/units.h"
#include "image/describe.h"
#include "image/drivers.h"
#include "image/size.h"
#include "tool/io_commands.h"

namespace cofre::tool {
namespace {

// The length of the run at `at` of which this layer decides all or nothing.
io::task<uint64_t> same_allocation(block::Device& device, uint64_t at, uint64_t length, bool& allocated) {
  block::Extent extent = co_await device.map(at, length);
  allocated = extent.allocated;
  uint64_t run = 0;
  while (true) {
    run += extent.length_bytes;
    if (run >= length) co_return length;
    extent = co_await device.map(at + run, length - run);
    if (extent.allocated != allocated) co_return run;
  }
}

// Where the VM state begins: the disk, up to the end of what the last of its L2 tables maps.
uint64_t vm_state_offset(const qcow2::Header& header) {
  const uint64_t table_bytes = header.l2_entries_per_table() << header.cluster_bits;
  return (header.size_bytes + table_bytes - 1) / table_bytes * table_bytes;
}

// As in qemu-io: storage and fault injectors are named twice, for they are protocols too.
bool is_protocol(const std::string& driver) {
  const image::Driver* const known = image::find_driver(driver);
  return known != nullptr && (known->kind == image::DriverKind::kStorage || driver.starts_with("blk"));
}

bool knows_clusters(const image::Layer& top) {
  return !is_protocol(top.driver) || top.host_file != nullptr || top.qcow2 != nullptr ||
         top.driver.starts_with("blk");
}

}  // namespace

io::task<bool> run_alloc(IoContext& context, CommandWords words) {
  block::Device& device = context.image->device();
  const uint64_t offset = words.size(0);
  const uint64_t asked = words.arguments().size() == 2 ? words.size(1) : kSectorBytes;
  const uint64_t count = offset < device.length_bytes() ? std::min(asked, device.length_bytes() - offset) : 0;
  uint64_t sum = 0;
  for (uint64_t at = 0; at < count;) {
    bool allocated = false;
    const uint64_t run = co_await same_allocation(device, offset + at, count - at, allocated);
    sum += allocated ? run : 0;
    at += run;
  }
  fmt::print("{}/{} bytes allocated at offset {}\n", sum, count, image::format_size_exact(offset));
  co_return true;
}

io::task<bool> run_map(IoContext& context, CommandWords) {
  block::Device& device = context.image->device();
  const uint64_t length = device.length_bytes();
  for (uint64_t at = 0; at < length;) {
    bool allocated = false;
    const uint64_t run = co_await same_allocation(device, at, length - at, allocated);
    fmt::print("{} (0x{:x}) bytes {} allocated at offset {} (0x{:x})\n", image::format_size_exact(run), run,
               allocated ? "   " : "not", image::format_size_exact(at), at);
    at += run;
  }
  co_return true;
}

io::task<bool> run_info(IoContext& context, CommandWords) {
  image::OpenedImage& opened = context.image->opened();
  const image::Layer& top = opened.top();
  const image::ImageInfo info = co_await image::describe(opened);
  fmt::print("format name: {}\n", info.format);
  if (is_protocol(info.format)) fmt::print("format name: {}\n", info.format);
  if (!knows_clusters(top)) co_return false;
  const uint64_t vm_state = top.qcow2 != nullptr ? vm_state_offset(top.qcow2->header()) : 0;
  fmt::print("cluster size: {}\nvm state offset: {}\n",
             image::format_size_exact(info.cluster_bytes.value_or(0)), image::format_size_exact(vm_state));
  fmt::print("{}", image::format_specific_text(info));
  co_return true;
}

io::task<bool> run_length(IoContext& context, CommandWords) {
  fmt::print("{}\n", image::format_size_exact(context.image->device().length_bytes()));
  co_return true;
}

}  // namespace cofre::tool
