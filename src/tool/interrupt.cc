#include "tool/interrupt.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstring>

namespace cofre::tool {
namespace {

std::atomic<int> received_signal = 0;
std::atomic<int> heeding = 0;
std::atomic<int> descriptor = -1;

constexpr size_t kMostPaths = 8;
using Path = std::array<char, PATH_MAX>;
std::array<Path, kMostPaths> temporary_paths = {};
std::atomic<size_t> path_count = 0;  // may be more than kMostPaths

// Async-signal-safe.
void tell_descriptor() {
  const int fd = descriptor.load(std::memory_order_relaxed);
  if (fd < 0) return;
  const int error = errno;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(fd, &one, sizeof one);
  errno = error;
}

// Async-signal-safe.
void on_signal(int signal) {
  int none = 0;
  const bool first = received_signal.compare_exchange_strong(none, signal);
  tell_descriptor();
  if (first && heeding.load(std::memory_order_relaxed) > 0) return;
  for (size_t i = std::min(path_count.load(std::memory_order_acquire), kMostPaths); i > 0; --i) {
    const char* path = temporary_paths[i - 1].data();
    if (::unlink(path) != 0) ::rmdir(path);
  }
  ::_exit(128 + signal);
}

}  // namespace

void install_interrupt_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction before = {};
    // What nohup and background shells ignore stays ignored.
    if (sigaction(signal, nullptr, &before) == 0 && before.sa_handler != SIG_IGN)
      sigaction(signal, &action, nullptr);
  }
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, nullptr);
}

bool interrupted() noexcept {
  return received_signal.load(std::memory_order_relaxed) != 0;
}

int interrupt_descriptor() {
  if (descriptor.load() < 0) {
    descriptor.store(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (interrupted()) tell_descriptor();
  }
  return descriptor.load();
}

int interrupted_exit_status() noexcept {
  return 128 + received_signal.load(std::memory_order_relaxed);
}

HeedingSignals::HeedingSignals() noexcept {
  heeding.fetch_add(1, std::memory_order_relaxed);
}

HeedingSignals::~HeedingSignals() {
  heeding.fetch_sub(1, std::memory_order_relaxed);
}

RemoveOnSignal::RemoveOnSignal(const std::string& path) {
  const size_t place = path_count.load(std::memory_order_relaxed);
  if (place < kMostPaths) {
    Path& into = temporary_paths[place];
    const size_t length = path.size() < into.size() ? path.size() : 0;
    std::memcpy(into.data(), path.data(), length);
    into[length] = '\0';
  }
  path_count.store(place + 1, std::memory_order_release);
}

RemoveOnSignal::~RemoveOnSignal() {
  path_count.fetch_sub(1, std::memory_order_release);
}

}  // namespace cofre::tool
