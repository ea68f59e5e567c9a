#include "export/vhost_user_blk/fault_guard.h"

#include <signal.h>
#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>

#include "base/error.h"

namespace cofre::vhost {

struct GuardedRange {
  std::atomic<uintptr_t> begin = 0;  // 0: free. Written last when it is taken, first when it is given back
  std::atomic<uintptr_t> end = 0;
  std::atomic<uintptr_t> page_bytes = 0;
  std::atomic<bool> lost = false;
};

namespace {

constexpr size_t kMostRanges = 4096;
std::array<GuardedRange, kMostRanges> ranges;
std::atomic<size_t> used_ranges = 0;  // none is taken from here on
std::mutex taking;
struct sigaction action_before;

// Async-signal-safe: mmap() is a bare system call.
bool replace_page(uintptr_t address) {
  const size_t count = used_ranges.load(std::memory_order_acquire);
  for (size_t i = 0; i < count; ++i) {
    GuardedRange& range = ranges[i];
    const uintptr_t begin = range.begin.load(std::memory_order_acquire);
    if (begin == 0 || address < begin || address >= range.end.load(std::memory_order_relaxed)) continue;
    const uintptr_t page_bytes = range.page_bytes.load(std::memory_order_relaxed);
    void* const page = reinterpret_cast<void*>(address & ~(page_bytes - 1));
    if (::mmap(page, page_bytes, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
        MAP_FAILED)
      return false;
    range.lost.store(true, std::memory_order_release);
    return true;
  }
  return false;
}

void on_bus_error(int signal, siginfo_t* about, void* /*context*/) {
  const int error = errno;
  // Not ours: it happens once more, to whoever was there before.
  if (!replace_page(reinterpret_cast<uintptr_t>(about->si_addr)))
    ::sigaction(signal, &action_before, nullptr);
  errno = error;
}

void install_handler() {
  struct sigaction action = {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  if (::sigaction(SIGBUS, &action, &action_before) != 0)
    fail_errno(errno, "cannot look out for memory that another process takes away");
}

GuardedRange& free_range() {
  for (size_t i = 0; i < kMostRanges; ++i) {
    if (ranges[i].begin.load(std::memory_order_relaxed) != 0) continue;
    if (i >= used_ranges.load(std::memory_order_relaxed)) used_ranges.store(i + 1, std::memory_order_release);
    return ranges[i];
  }
  fail(ErrorKind::kLimit, "more than {} regions of guests' memory are mapped", kMostRanges);
}

}  // namespace

FaultGuard::FaultGuard(std::byte* begin, size_t length_bytes, size_t page_bytes) {
  const std::lock_guard lock(taking);
  static const bool installed = (install_handler(), true);
  static_cast<void>(installed);
  range_ = &free_range();
  const auto address = reinterpret_cast<uintptr_t>(begin);
  range_->end.store(address + length_bytes, std::memory_order_relaxed);
  range_->page_bytes.store(page_bytes, std::memory_order_relaxed);
  range_->lost.store(false, std::memory_order_relaxed);
  range_->begin.store(address, std::memory_order_release);
}

FaultGuard::~FaultGuard() {
  const std::lock_guard lock(taking);
  range_->begin.store(0, std::memory_order_release);
}

bool FaultGuard::lost() const noexcept {
  return range_->lost.load(std::memory_order_acquire);
}

}  // namespace cofre::vhost
