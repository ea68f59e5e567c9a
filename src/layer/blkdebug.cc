#include "layer/blkdebug.h"

#include <algorithm>
#include <mutex>

#include "base/error.h"
#include "base/units.h"
#include "io/reactor.h"
#include "layer/filter.h"

namespace cofre::layer {
namespace {

class BlkdebugDevice final : public Filter {
 public:
  BlkdebugDevice(std::unique_ptr<block::Device> below, BlkdebugConfig config)
      : Filter(std::move(below)), config_(std::move(config)), limits_(inner().limits()) {
    limits_.request_alignment = std::max(limits_.request_alignment, config_.alignment);
    limits_.discard_alignment = std::max(limits_.discard_alignment, config_.discard_alignment);
    if (config_.max_transfer > 0)
      limits_.max_write_bytes = std::min(limits_.max_write_bytes, config_.max_transfer);
    BlkdebugDevice::raise(block::Event::kNone);
  }

  const block::Limits& limits() const override { return limits_; }
  void raise(block::Event event) override;

  io::task<void> read(uint64_t offset, Bytes destination) override {
    co_await pass(BlkdebugRequest::kRead, offset, destination.size());
    co_await inner().read(offset, destination);
  }
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override {
    co_await pass(BlkdebugRequest::kWrite, offset, source.size());
    co_await inner().write(offset, source, flags);
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override {
    co_await pass(BlkdebugRequest::kWriteZeroes, offset, length);
    co_await inner().write_zeroes(offset, length, flags);
  }
  io::task<void> discard(uint64_t offset, uint64_t length) override {
    co_await pass(BlkdebugRequest::kDiscard, offset, length);
    co_await inner().discard(offset, length);
  }
  io::task<void> flush() override {
    co_await pass(BlkdebugRequest::kFlush, 0, 0);
    co_await inner().flush();
  }
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override {
    co_await pass(BlkdebugRequest::kBlockStatus, offset, length);
    co_return co_await inner().map(offset, length);
  }

 private:
  static bool meets(const InjectError& rule, BlkdebugRequest kind, uint64_t offset, uint64_t length);
  std::optional<InjectError> find_error(BlkdebugRequest kind, uint64_t offset, uint64_t length);
  io::task<void> pass(BlkdebugRequest kind, uint64_t offset, uint64_t length);

  BlkdebugConfig config_;
  block::Limits limits_;
  std::mutex mutex_;  // over all below
  uint64_t state_ = 1;
  std::vector<InjectError> active_;
};

// The new state counts from the next event on.
void BlkdebugDevice::raise(block::Event event) {
  const std::lock_guard lock(mutex_);
  std::vector<InjectError> now_active;
  for (const InjectError& rule : config_.errors)
    if (rule.event == event && (rule.state == 0 || rule.state == state_)) now_active.push_back(rule);
  if (!now_active.empty()) active_ = std::move(now_active);
  uint64_t new_state = state_;
  for (const SetState& rule : config_.states)
    if (rule.event == event && (rule.state == 0 || rule.state == state_)) new_state = rule.new_state;
  state_ = new_state;
}

bool BlkdebugDevice::meets(const InjectError& rule, BlkdebugRequest kind, uint64_t offset, uint64_t length) {
  if (rule.request_kind ? *rule.request_kind != kind : kind == BlkdebugRequest::kBlockStatus) return false;
  if (!rule.sector) return true;
  const uint64_t at = *rule.sector * kSectorBytes;
  return at >= offset && at - offset < length;
}

std::optional<InjectError> BlkdebugDevice::find_error(BlkdebugRequest kind, uint64_t offset,
                                                      uint64_t length) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find_if(
      active_, [&](const InjectError& rule) { return meets(rule, kind, offset, length); });
  if (found == active_.end()) return std::nullopt;
  const InjectError rule = *found;
  if (rule.once) active_.erase(found);
  return rule;
}

io::task<void> BlkdebugDevice::pass(BlkdebugRequest kind, uint64_t offset, uint64_t length) {
  const std::optional<InjectError> rule = find_error(kind, offset, length);
  if (!rule || rule->errno_value == 0) co_return;
  if (!rule->immediately) co_await io::yield();
  fail_errno(rule->errno_value, "'{}': blkdebug: injected error, {} bytes at offset {}", name(), length,
             offset);
}

}  // namespace

std::unique_ptr<block::Device> make_blkdebug(std::unique_ptr<block::Device> inner, BlkdebugConfig config) {
  return std::make_unique<BlkdebugDevice>(std::move(inner), std::move(config));
}

}  // namespace cofre::layer
