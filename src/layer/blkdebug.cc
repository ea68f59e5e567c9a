#include "layer/blkdebug.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/units.h"
#include "io/reactor.h"
#include "layer/filter.h"

namespace cofre::layer {
namespace {

struct Breakpoint {
  std::optional<block::Event> event;
  std::string tag;
};

// A request that waits, in the frame of its coroutine. It may have stopped at several breakpoints at once.
struct Stop {
  size_t breakpoints_left = 0;
  io::Reactor* lane = nullptr;
  io::Wakeup wakeup{};
};
struct Suspended {
  std::string tag;
  Stop* stop;
};

class BlkdebugDevice final : public Filter, public Breakpoints {
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
  // As in QEMU: whoever tests does not want to know.
  std::optional<uint64_t> allocated_bytes() const override { return std::nullopt; }
  void raise(block::Event event) override;

  io::task<void> read(uint64_t offset, Bytes destination) override {
    co_await pass(BlkdebugRequest::kRead, offset, destination.size());
    co_await inner().read(offset, destination);
  }
  // The events of QEMU's block layer above each device are raised here.
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override {
    BlkdebugDevice::raise(block::Event::kPwritev);
    co_await pass(BlkdebugRequest::kWrite, offset, source.size());
    co_await inner().write(offset, source, flags);
    co_await raise_behind(block::Event::kPwritevDone);
  }
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) override {
    BlkdebugDevice::raise(block::Event::kPwritevZero);
    co_await pass(BlkdebugRequest::kWriteZeroes, offset, length);
    co_await inner().write_zeroes(offset, length, flags);
    co_await raise_behind(block::Event::kPwritevDone);
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

  void set_break(std::optional<block::Event> event, const std::string& tag) override;
  bool remove_break(std::string_view tag) override;
  bool resume(std::string_view tag) override;
  void resume_all() override;
  void forget_all() override;
  bool is_suspended(std::string_view tag) const override;
  void set_listener(Listener listener) override { listener_ = std::move(listener); }
  void take_over(const Breakpoints& before) override;

 private:
  struct StopAwaiter;
  io::task<void> stop_if_due();
  io::task<void> raise_behind(block::Event event);
  bool resume_one(const std::function<bool(const Suspended&)>& chosen);
  void tell(std::string_view tag, bool suspended) const {
    if (listener_) listener_(tag, suspended);
  }

  static bool meets(const InjectError& rule, BlkdebugRequest kind, uint64_t offset, uint64_t length);
  std::optional<InjectError> find_error(BlkdebugRequest kind, uint64_t offset, uint64_t length);
  io::task<void> pass(BlkdebugRequest kind, uint64_t offset, uint64_t length);

  BlkdebugConfig config_;
  block::Limits limits_;
  Listener listener_;
  mutable std::mutex mutex_;  // over all below
  uint64_t state_ = 1;
  std::vector<InjectError> active_;
  std::deque<Breakpoint> breakpoints_;  // the newest first
  std::vector<std::string> due_;        // tags of breakpoints whose event came: the next request stops
  std::deque<Suspended> suspended_;     // the newest first
};

struct BlkdebugDevice::StopAwaiter {
  BlkdebugDevice& device;
  std::vector<std::string> tags;
  Stop stop{};

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) {
    stop.breakpoints_left = tags.size();
    stop.lane = io::Reactor::current();
    stop.wakeup.waiter = waiter;
    {
      const std::lock_guard lock(device.mutex_);
      for (const std::string& tag : tags) device.suspended_.push_front({tag, &stop});
    }
    // Resumed or not, the coroutine goes on when this lane is free.
    for (const std::string& tag : tags) device.tell(tag, true);
  }
  void await_resume() const noexcept {}
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
  for (const Breakpoint& breakpoint : breakpoints_)
    if (breakpoint.event == event) due_.push_back(breakpoint.tag);
  std::erase_if(breakpoints_, [&](const Breakpoint& breakpoint) { return breakpoint.event == event; });
}

// For an event behind which there is no request.
io::task<void> BlkdebugDevice::raise_behind(block::Event event) {
  raise(event);
  co_await stop_if_due();
}

io::task<void> BlkdebugDevice::stop_if_due() {
  std::vector<std::string> tags;
  {
    const std::lock_guard lock(mutex_);
    tags.swap(due_);
  }
  if (!tags.empty()) co_await StopAwaiter{*this, std::move(tags)};
}

void BlkdebugDevice::set_break(std::optional<block::Event> event, const std::string& tag) {
  const std::lock_guard lock(mutex_);
  breakpoints_.push_front({event, tag});
}

bool BlkdebugDevice::resume_one(const std::function<bool(const Suspended&)>& chosen) {
  Suspended resumed;
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::ranges::find_if(suspended_, chosen);
    if (found == suspended_.end()) return false;
    resumed = std::move(*found);
    suspended_.erase(found);
    if (--resumed.stop->breakpoints_left == 0) resumed.stop->lane->post(resumed.stop->wakeup);
  }
  tell(resumed.tag, false);
  return true;
}

bool BlkdebugDevice::resume(std::string_view tag) {
  return resume_one([&](const Suspended& suspended) { return suspended.tag == tag; });
}

void BlkdebugDevice::forget_all() {
  const std::lock_guard lock(mutex_);
  breakpoints_.clear();
  due_.clear();
}

void BlkdebugDevice::resume_all() {
  while (resume_one([](const Suspended&) { return true; })) {
  }
}

bool BlkdebugDevice::remove_break(std::string_view tag) {
  size_t removed = 0;
  {
    const std::lock_guard lock(mutex_);
    removed =
        std::erase_if(breakpoints_, [&](const Breakpoint& breakpoint) { return breakpoint.tag == tag; });
    removed += std::erase(due_, tag);
  }
  while (resume(tag)) {
  }
  return removed > 0;
}

bool BlkdebugDevice::is_suspended(std::string_view tag) const {
  const std::lock_guard lock(mutex_);
  return std::ranges::any_of(suspended_, [&](const Suspended& suspended) { return suspended.tag == tag; });
}

void BlkdebugDevice::take_over(const Breakpoints& before) {
  const auto* const other = dynamic_cast<const BlkdebugDevice*>(&before);
  if (other == nullptr) return;
  const std::scoped_lock lock(mutex_, other->mutex_);
  state_ = other->state_;
  active_ = other->active_;
  config_.errors = other->config_.errors;
  breakpoints_ = other->breakpoints_;
  due_ = other->due_;
  listener_ = other->listener_;
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
  if (rule.once) {  // nor does its event bring it back
    active_.erase(found);
    if (const auto source = std::ranges::find(config_.errors, rule); source != config_.errors.end())
      config_.errors.erase(source);
  }
  return rule;
}

io::task<void> BlkdebugDevice::pass(BlkdebugRequest kind, uint64_t offset, uint64_t length) {
  co_await stop_if_due();
  const std::optional<InjectError> rule = find_error(kind, offset, length);
  if (!rule || rule->errno_value == 0) co_return;
  if (!rule->immediately) co_await io::yield();
  fail_errno(rule->errno_value, "'{}': blkdebug: injected error, {} bytes at offset {}", name(), length,
             offset);
}

}  // namespace

std::unique_ptr<block::Device> make_blkdebug(std::unique_ptr<block::Device> inner, BlkdebugConfig config,
                                             Breakpoints** breakpoints) {
  auto device = std::make_unique<BlkdebugDevice>(std::move(inner), std::move(config));
  if (breakpoints != nullptr) *breakpoints = device.get();
  return device;
}

}  // namespace cofre::layer
