// A device that fails when a format above it reaches a certain step: QEMU's blkdebug. Any lane.
//
// There is a state, 1 at first. Each event that the format raises makes the rules of that event and state the
// active ones; a request that meets an active rule fails with its errno.
//
// And there are breakpoints: the request that follows their event stops until somebody resumes it, for tests
// of what happens meanwhile.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "block/device.h"

namespace cofre::layer {

enum class BlkdebugRequest : uint8_t { kRead, kWrite, kWriteZeroes, kDiscard, kFlush, kBlockStatus };

struct InjectError {
  std::optional<block::Event> event;                           // none: an event that never comes
  uint64_t state = 0;                                          // 0: any
  int errno_value = 5;                                         // EIO
  std::optional<uint64_t> sector = std::nullopt;               // of 512 bytes; none: wherever
  std::optional<BlkdebugRequest> request_kind = std::nullopt;  // none: all but kBlockStatus
  bool once = false;
  bool immediately = false;  // fails before anything else runs

  bool operator==(const InjectError&) const = default;
};

struct SetState {
  std::optional<block::Event> event;
  uint64_t state = 0;  // 0: any
  uint64_t new_state = 0;
};

struct BlkdebugConfig {
  std::vector<InjectError> errors;
  std::vector<SetState> states;
  // Limits for whoever stands above; 0: those of the device below. Bytes.
  uint32_t alignment = 0;
  uint64_t max_transfer = 0;
  uint32_t discard_alignment = 0;
};

// The breakpoints of a blkdebug device. Each stops one request and is gone then; several may have one tag.
// Any lane. Whoever closes the device resumes what is stopped first.
class Breakpoints {
 public:
  virtual ~Breakpoints() = default;
  // No event: one that never comes.
  virtual void set_break(std::optional<block::Event> event, const std::string& tag) = 0;
  // Forgets the breakpoints of the tag and resumes all requests that stopped at one. False: there was none
  // that had not stopped a request yet.
  virtual bool remove_break(std::string_view tag) = 0;
  // The request that stopped last at a breakpoint of the tag. False: there is none.
  virtual bool resume(std::string_view tag) = 0;
  virtual void resume_all() = 0;
  // Nothing stops any more; what has stopped stays so.
  virtual void forget_all() = 0;
  virtual bool is_suspended(std::string_view tag) const = 0;
  // Called when a request stops and when it is resumed.
  using Listener = std::function<void(std::string_view tag, bool suspended)>;
  virtual void set_listener(Listener listener) = 0;
  // From now on this device, which takes the place of `before`, is in its state: breakpoints, rules. Nothing
  // may be stopped.
  virtual void take_over(const Breakpoints& before) = 0;
};

// `breakpoints`, if not null, gets the device's, which live as long as it.
std::unique_ptr<block::Device> make_blkdebug(std::unique_ptr<block::Device> inner, BlkdebugConfig config,
                                             Breakpoints** breakpoints = nullptr);

}  // namespace cofre::layer
