#include "tool/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <climits>
#include <cstring>

namespace cofre::tool {
namespace {

std::atomic<int> received_signal = 0;
std::atomic<int> heeding = 0;
std::atomic<bool> path_set = false;
std::array<char, PATH_MAX> temporary_path = {};

// Async-signal-safe.
void on_signal(int signal) {
  int none = 0;
  const bool first = received_signal.compare_exchange_strong(none, signal);
  if (first && heeding.load(std::memory_order_relaxed) > 0) return;
  if (path_set.load(std::memory_order_acquire)) ::unlink(temporary_path.data());
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
  if (path.empty() || path.size() >= temporary_path.size()) return;
  std::memcpy(temporary_path.data(), path.c_str(), path.size() + 1);
  path_set.store(true, std::memory_order_release);
}

RemoveOnSignal::~RemoveOnSignal() {
  path_set.store(false, std::memory_order_release);
}

}  // namespace cofre::tool
