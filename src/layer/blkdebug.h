// A device that fails when a format above it reaches a certain step: QEMU's blkdebug. Any lane.
//
// There is a state, 1 at first. Each event that the format raises makes the rules of that event and state the
// active ones; a request that meets an active rule fails with its errno.
#pragma once

#include <memory>
#include <optional>
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

std::unique_ptr<block::Device> make_blkdebug(std::unique_ptr<block::Device> inner, BlkdebugConfig config);

}  // namespace cofre::layer
