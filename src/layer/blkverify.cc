#include "layer/blkverify.h"

#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "layer/filter.h"

namespace cofre::layer {
namespace {

class BlkverifyDevice final : public Filter {
 public:
  BlkverifyDevice(std::unique_ptr<block::Device> test, std::unique_ptr<block::Device> raw)
      : Filter(std::move(test)), raw_(std::move(raw)), limits_(inner().limits()) {
    limits_.request_alignment = std::max(limits_.request_alignment, raw_->limits().request_alignment);
    limits_.compressed_unit_bytes = 0;
    limits_.growable = limits_.growable && raw_->limits().growable;
  }

  const block::Limits& limits() const override { return limits_; }
  std::optional<uint64_t> allocated_bytes() const override { return std::nullopt; }  // of which one?

  io::task<void> read(uint64_t offset, Bytes destination) override;
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override {
    co_await inner().write(offset, source, flags);
    co_await raw_->write(offset, source, flags);
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override {
    co_await inner().write_zeroes(offset, length, flags);
    co_await raw_->write_zeroes(offset, length, flags);
  }
  // What a discarded range reads as is each format's own matter: only zeroes are the same in both.
  io::task<void> discard(uint64_t, uint64_t) override { co_return; }
  io::task<void> flush() override {
    co_await inner().flush();
    co_await raw_->flush();
  }
  io::task<void> resize(uint64_t length) override {
    co_await inner().resize(length);
    co_await raw_->resize(length);
  }
  io::task<void> close() override {
    co_await inner().close();
    co_await raw_->close();
  }

 private:
  std::unique_ptr<block::Device> raw_;
  block::Limits limits_;
};

io::task<void> BlkverifyDevice::read(uint64_t offset, Bytes destination) {
  co_await inner().read(offset, destination);
  AlignedBuffer expected(destination.size());
  co_await raw_->read(offset, expected.bytes());
  const auto [differs, other] = std::ranges::mismatch(destination, expected.bytes());
  if (differs == destination.end()) co_return;
  const auto at = static_cast<uint64_t>(differs - destination.begin());
  fail(ErrorKind::kCorrupt, "blkverify: read offset={} bytes={} contents mismatch at offset {}", offset,
       destination.size(), offset + at);
}

}  // namespace

std::unique_ptr<block::Device> make_blkverify(std::unique_ptr<block::Device> test,
                                              std::unique_ptr<block::Device> raw) {
  return std::make_unique<BlkverifyDevice>(std::move(test), std::move(raw));
}

}  // namespace cofre::layer
