#include "witness/run.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "base/error.h"
#include "witness/process_facts.h"

namespace cofre::witness {
namespace {

using namespace std::chrono_literals;
constexpr auto kUserInterval = 50ms;

// Ctrl-C goes to the whole foreground process group, to which the command belongs as well.
bool terminal_signals_us() {
  const int terminal = ::open("/dev/tty", O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (terminal < 0) return false;
  const bool is_ours = ::tcgetpgrp(terminal) == ::getpgrp();
  ::close(terminal);
  return is_ours;
}

}  // namespace

Run::Run(const Options& options, ModuleCache& modules, bool plant)
    : options_(options), tracer_(modules, plant) {
  if (options.pid) {
    pid_ = *options.pid;
    tracer_.attach(pid_);
  } else {
    start();
  }
  start_ = Clock::now();  // reading the files of a large program takes a moment
}

void Run::start() {
  if (options_.command.empty()) fail(ErrorKind::kInvalidArgument, "no command and no process to witness");
  command_.emplace(options_.command);
  pid_ = command_->pid();
  tracer_.attach_child(pid_);
  command_->release();
  while (!command_->is_running()) tracer_.step(Clock::now() + 2ms);
  try {
    require_x86_64(pid_);
  } catch (const Error&) {
    ::kill(pid_, SIGKILL);  // it has barely begun
    throw;
  }
}

bool Run::heed_user() {
  const int signal = options_.stop_signal ? options_.stop_signal() : 0;
  if (signal == 0) return true;
  if (!command_) return false;
  if (signal != forwarded_ && (signal != SIGINT || !terminal_signals_us())) ::kill(pid_, signal);
  forwarded_ = signal;
  return true;
}

bool Run::step(Clock::time_point until) {
  if (tracer_.end_of(pid_)) return false;
  if (!heed_user()) return false;
  if (options_.duration && Clock::now() >= start_ + *options_.duration) {
    if (!command_) return false;
    if (!asked_to_end_) ::kill(pid_, SIGTERM);
    asked_to_end_ = true;
  }
  until = std::min(until, Clock::now() + kUserInterval);
  if (options_.duration && !asked_to_end_) until = std::min(until, start_ + *options_.duration);
  return tracer_.step(until);
}

void Run::finish(Report& report) {
  tracer_.detach_all();
  report.elapsed = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start_);
  report.processes = tracer_.processes_seen();
  report.threads = tracer_.threads_seen();
  report.complaints = tracer_.complaints();
  report.generated_code = tracer_.saw_generated_code();
  const auto status = tracer_.end_of(pid_);
  if (!status) return;
  report.end = ProcessEnd{.exit_code = WIFEXITED(*status) ? WEXITSTATUS(*status) : 0,
                          .signal = WIFSIGNALED(*status) ? WTERMSIG(*status) : 0};
}

}  // namespace cofre::witness
