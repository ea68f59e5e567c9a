#include "block/checked.h"

#include <cstdio>
#include <cstdlib>

#include "base/checked.h"

namespace cofre::block {
namespace {

// FNV-1a over words: enough to notice that a buffer changed.
uint64_t fingerprint(ConstBytes bytes) noexcept {
  uint64_t hash = 0xcbf29ce484222325;
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8)
    hash = (hash ^ load_native<uint64_t>(bytes.data() + at)) * 0x100000001b3;
  for (; at < bytes.size(); ++at) hash = (hash ^ std::to_integer<uint64_t>(bytes[at])) * 0x100000001b3;
  return hash;
}

class CheckedDevice final : public Device {
 public:
  explicit CheckedDevice(std::unique_ptr<Device> inner) : inner_(std::move(inner)) {}
  ~CheckedDevice() override { require(in_flight_ == 0, "destroyed with requests in flight", 0, 0); }

  const std::string& name() const override { return inner_->name(); }
  const Limits& limits() const override { return inner_->limits(); }
  uint64_t length_bytes() const override { return inner_->length_bytes(); }
  Device* backing() const override { return inner_->backing(); }
  std::optional<uint64_t> allocated_bytes() const override { return inner_->allocated_bytes(); }
  void raise(Event event) override { inner_->raise(event); }

  io::task<void> read(uint64_t offset, Bytes destination) override {
    check(offset, destination.size(), /*extends=*/false);
    const InFlight guard(in_flight_);
    co_await inner_->read(offset, destination);
  }
  io::task<void> write(uint64_t offset, ConstBytes source, WriteFlags flags) override {
    check_write(offset, source.size());
    require(source.size() <= limits().max_write_bytes, "a write longer than max_write_bytes", offset,
            source.size());
    if (flags.compressed) check_compressed(offset, source.size());
    const InFlight guard(in_flight_);
    const uint64_t before = fingerprint(source);
    co_await inner_->write(offset, source, flags);
    require(fingerprint(source) == before, "the buffer changed during the write", offset, source.size());
    require(range_within(offset, source.size(), length_bytes()), "a write that did not extend", offset,
            source.size());
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, WriteFlags flags) override {
    check_write(offset, length);
    const InFlight guard(in_flight_);
    co_await inner_->write_zeroes(offset, length, flags);
  }
  io::task<void> discard(uint64_t offset, uint64_t length) override {
    check_write(offset, length);
    const InFlight guard(in_flight_);
    co_await inner_->discard(offset, length);
  }
  io::task<void> flush() override {
    require(!closed_, "flush after close", 0, 0);
    const InFlight guard(in_flight_);
    co_await inner_->flush();
  }
  io::task<Extent> map(uint64_t offset, uint64_t length) override {
    check(offset, length, /*extends=*/false);
    const InFlight guard(in_flight_);
    Extent extent = co_await inner_->map(offset, length);
    require(extent.length_bytes > 0 && extent.length_bytes <= length, "map gave a wrong length", offset,
            length);
    co_return extent;
  }
  io::task<void> resize(uint64_t length) override {
    require(!closed_, "resize after close", 0, length);
    const InFlight guard(in_flight_);
    co_await inner_->resize(length);
  }
  io::task<void> close() override {
    require(!closed_ && in_flight_ == 0, "close while in use, or twice", 0, 0);
    closed_ = true;
    co_await inner_->close();
  }

 private:
  struct InFlight {
    explicit InFlight(std::atomic<int64_t>& count) : count_(count) { ++count_; }
    ~InFlight() { --count_; }
    InFlight(const InFlight&) = delete;
    InFlight& operator=(const InFlight&) = delete;
    std::atomic<int64_t>& count_;
  };

  void require(bool holds, const char* what, uint64_t offset, uint64_t length) const {
    if (holds) return;
    std::fprintf(stderr, "contract of '%s' broken: %s (offset %llu, length %llu, device of %llu bytes)\n",
                 inner_->name().c_str(), what, static_cast<unsigned long long>(offset),
                 static_cast<unsigned long long>(length), static_cast<unsigned long long>(length_bytes()));
    std::abort();
  }
  void check(uint64_t offset, uint64_t length, bool extends) const {
    require(!closed_, "a request after close", offset, length);
    const uint32_t alignment = limits().request_alignment;
    require(is_aligned(offset, alignment), "an unaligned offset", offset, length);
    require(is_aligned(length, alignment) || offset + length == length_bytes(), "an unaligned length", offset,
            length);
    require(range_within(offset, length, extends ? INT64_MAX : length_bytes()), "a request past the end",
            offset, length);
  }
  void check_compressed(uint64_t offset, uint64_t length) const {
    const uint32_t unit = limits().compressed_unit_bytes;
    require(unit != 0, "a compressed write to a device without", offset, length);
    require(is_aligned(offset, unit), "an unaligned offset of a compressed write", offset, length);
    require(is_aligned(length, unit) || offset + length == length_bytes(),
            "an unaligned length of a compressed write", offset, length);
  }
  void check_write(uint64_t offset, uint64_t length) const { check(offset, length, limits().growable); }

  std::unique_ptr<Device> inner_;
  std::atomic<int64_t> in_flight_ = 0;
  bool closed_ = false;
};

}  // namespace

std::unique_ptr<Device> make_checked(std::unique_ptr<Device> inner) {
  return std::make_unique<CheckedDevice>(std::move(inner));
}

}  // namespace cofre::block
