#include "witness/trampoline.h"

#include <sys/syscall.h>

#include <algorithm>
#include <csignal>
#include <limits>

namespace cofre::witness {
namespace {

constexpr size_t kStoreBytes = 7;  // c6 05 disp32 01
constexpr std::byte kJmp{0xe9};
constexpr std::byte kInt3{0xcc};

std::optional<uint32_t> displacement(uint64_t from_behind, uint64_t to) {
  const auto distance = static_cast<int64_t>(to - from_behind);
  if (distance < std::numeric_limits<int32_t>::min() || distance > std::numeric_limits<int32_t>::max())
    return std::nullopt;
  return static_cast<uint32_t>(distance);
}

// push rax, rcx, rdx, rsi, rdi, r11; tgkill(getpid(), gettid(), SIGURG); pop them; ret. A function's callers
// may rely on less than the calling convention promises them when the compiler saw both: nothing is changed.
constexpr auto kHook = std::to_array<uint8_t>({
    0x50, 0x51, 0x52, 0x56, 0x57, 0x41, 0x53,        // push
    0xb8, 39,   0,    0,    0,    0x0f, 0x05,        // mov $getpid, %eax; syscall
    0x89, 0xc7,                                      // mov %eax, %edi
    0xb8, 186,  0,    0,    0,    0x0f, 0x05,        // mov $gettid, %eax; syscall
    0x89, 0xc6,                                      // mov %eax, %esi
    0xba, 23,   0,    0,    0,                       // mov $SIGURG, %edx
    0xb8, 234,  0,    0,    0,    0x0f, 0x05,        // mov $tgkill, %eax; syscall
    0x41, 0x5b, 0x5f, 0x5e, 0x5a, 0x59, 0x58, 0xc3,  // pop; ret
});

}  // namespace

const size_t kHookSignalOffset = kHook.size() - 8;

std::optional<JumpCode> make_jump(uint64_t from, uint64_t to) {
  const auto distance = displacement(from + kJumpBytes, to);
  if (!distance) return std::nullopt;
  JumpCode code = {kJmp};
  store_le(code.data() + 1, *distance);
  return code;
}

std::optional<uint64_t> jump_target(const JumpCode& code, uint64_t from) {
  if (code[0] != kJmp) return std::nullopt;
  const auto distance = static_cast<int32_t>(load_le<uint32_t>(code.data() + 1));
  return from + kJumpBytes + static_cast<uint64_t>(int64_t{distance});
}

bool is_slot_of(const SlotCode& code, uint64_t slot, const AesSite& site, uint64_t address) {
  const auto distance = static_cast<int32_t>(load_le<uint32_t>(code.data() + 2));
  const uint64_t flag = slot + kStoreBytes + static_cast<uint64_t>(int64_t{distance});
  return code == make_slot(site, address, slot, flag);
}

std::optional<SlotCode> make_slot(const AesSite& site, uint64_t address, uint64_t slot, uint64_t flag) {
  static_assert(kStoreBytes + kLongestInstruction + kJumpBytes <= kSlotBytes);
  SlotCode code;
  code.fill(kInt3);
  const auto to_flag = displacement(slot + kStoreBytes, flag);
  if (!to_flag) return std::nullopt;
  code[0] = std::byte{0xc6};
  code[1] = std::byte{0x05};
  store_le(code.data() + 2, *to_flag);
  code[6] = std::byte{1};
  const size_t length = site.instruction.length;
  std::byte* const copy = code.data() + kStoreBytes;
  std::ranges::copy(site.code(), copy);
  const uint64_t copy_end = slot + kStoreBytes + length;
  if (site.instruction.rip_offset) {
    std::byte* const field = copy + *site.instruction.rip_offset;
    const uint64_t operand =
        address + length + static_cast<uint64_t>(int64_t{static_cast<int32_t>(load_le<uint32_t>(field))});
    const auto adjusted = displacement(copy_end, operand);
    if (!adjusted) return std::nullopt;
    store_le(field, *adjusted);
  }
  const auto back = make_jump(copy_end, address + length);
  if (!back) return std::nullopt;
  std::ranges::copy(*back, copy + length);
  return code;
}

std::array<SystemCall, 3> hook_calls(pid_t pid) {
  const auto number = static_cast<uint64_t>(pid);
  return {{{SYS_getpid}, {SYS_gettid}, {SYS_tgkill, {number, number, SIGURG}}}};
}

HookCode make_hook() {
  HookCode code;
  code.fill(kInt3);
  std::ranges::transform(kHook, code.begin(), [](uint8_t byte) { return std::byte{byte}; });
  return code;
}

}  // namespace cofre::witness
