#include "storage/null.h"

#include <algorithm>

#include "base/error.h"
#include "io/reactor.h"

namespace cofre::storage {

NullDevice::NullDevice(const NullOptions& options, std::string name)
    : options_(options), name_(std::move(name)) {
  limits_.read_only = options.read_only;
}

io::task<void> NullDevice::pass(bool writes) {
  if (writes && options_.read_only) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", name_);
  if (options_.latency_ns > 0) co_await io::sleep_ns(options_.latency_ns);
}

io::task<void> NullDevice::read(uint64_t, Bytes destination) {
  co_await pass(/*writes=*/false);
  std::ranges::fill(destination, std::byte{0});
}
io::task<void> NullDevice::write(uint64_t, ConstBytes, block::WriteFlags) {
  return pass(/*writes=*/true);
}
io::task<void> NullDevice::write_zeroes(uint64_t, uint64_t, block::WriteFlags) {
  return pass(/*writes=*/true);
}
io::task<void> NullDevice::discard(uint64_t, uint64_t) {
  return pass(/*writes=*/true);
}
io::task<void> NullDevice::flush() {
  return pass(/*writes=*/false);
}

io::task<block::Extent> NullDevice::map(uint64_t offset, uint64_t length) {
  if (!options_.read_zeroes) co_return block::Extent{.length_bytes = length};
  co_return block::Extent{
      .length_bytes = length, .allocated = true, .zero = true, .host_offset = offset, .host_name = name_};
}

io::task<void> NullDevice::resize(uint64_t length) {
  if (length != options_.length_bytes)
    fail(ErrorKind::kUnsupported, "'{}': a null device cannot be resized", name_);
  co_return;
}
io::task<void> NullDevice::close() {
  co_return;
}

}  // namespace cofre::storage
