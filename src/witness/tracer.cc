#include "witness/tracer.h"

#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <ctime>

#include "base/error.h"
#include "witness/process_facts.h"

namespace cofre::witness {
namespace {

using namespace std::chrono_literals;

constexpr auto kShortestInterval = 10ms;
constexpr auto kLongestInterval = 200ms;
constexpr auto kLookInterval = 250ms;  // for code that did not come through the dynamic linker

void wait_for_child_signal(Tracer::Clock::time_point deadline) {
  const auto left = std::max(deadline - Tracer::Clock::now(), Tracer::Clock::duration::zero());
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
  const timespec timeout = {
      .tv_sec = seconds.count(),
      .tv_nsec = std::chrono::duration_cast<std::chrono::nanoseconds>(left - seconds).count()};
  sigset_t wanted;
  sigemptyset(&wanted);
  sigaddset(&wanted, SIGCHLD);
  sigtimedwait(&wanted, nullptr, &timeout);
}

// Memory is opened first, and what forbids that forbids tracing.
std::shared_ptr<Space> open_space(pid_t pid, ModuleCache& modules) {
  try {
    return std::make_shared<Space>(pid, modules);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kPermission || has_ended(pid)) fail_to_trace(pid, error.errno_value());
    throw;
  }
}

// So that a thread that is to stop gets the processor.
void rest_a_moment() {
  const timespec moment = {.tv_sec = 0, .tv_nsec = 20'000};
  nanosleep(&moment, nullptr);
}

std::optional<Stop> stop_within(pid_t tid, Tracer::Clock::duration patience) {
  const auto deadline = Tracer::Clock::now() + patience;
  std::optional<Stop> stop;
  while (!(stop = poll_stop(tid)) && Tracer::Clock::now() < deadline) rest_a_moment();
  return stop;
}

}  // namespace

Tracer::Tracer(ModuleCache& modules, bool plant)
    : modules_(modules), plant_(plant), collect_interval_(kShortestInterval) {
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  pthread_sigmask(SIG_BLOCK, &child, nullptr);
}

Tracer::~Tracer() {
  detach_all();
}

void Tracer::add(pid_t tid, pid_t process, std::shared_ptr<Space> space) {
  threads_[tid] = {.process = process, .space = std::move(space)};
  processes_.insert(process);
  ++threads_seen_;
}

// A process whose memory cannot be opened is followed all the same.
std::shared_ptr<Space> Tracer::make_space(pid_t pid, const Space* parent) {
  try {
    return parent != nullptr ? std::make_shared<Space>(pid, *parent) : std::make_shared<Space>(pid, modules_);
  } catch (const Error& error) {
    complaints_.insert(error.what());
    return nullptr;
  }
}

// Threads may be born while the list is read: until a reading finds no new one.
void Tracer::seize_all(pid_t pid) {
  const auto space = threads_.at(pid).space;
  for (bool found_new = true; found_new;) {
    found_new = false;
    for (const pid_t tid : threads_of(pid)) {
      if (threads_.contains(tid) || seize(tid) != 0) continue;
      add(tid, pid, space);
      found_new = true;
    }
  }
}

void Tracer::attach(pid_t pid) {
  require_traceable(pid);
  const auto space = open_space(pid, modules_);
  if (plant_) space->look();  // reads the files while the process runs
  const int why = seize(pid);
  if (why != 0) fail_to_trace(pid, why);
  add(pid, pid, space);
  seize_all(pid);
  if (plant_) plant_running(space);
}

void Tracer::attach_child(pid_t pid) {
  const int why = seize(pid);
  if (why != 0) fail_to_trace(pid, why);
  add(pid, pid, nullptr);  // its space is made when it executes the program
}

bool Tracer::step(Clock::time_point deadline) {
  int status = 0;
  for (pid_t tid = 0; (tid = waitpid(-1, &status, __WALL | __WNOTHREAD | WNOHANG)) > 0;)
    handle(tid, Stop{status});
  if (threads_.empty()) return false;
  look_around();
  wait_for_child_signal(std::min({deadline, next_collect_, next_look_}));
  return true;
}

std::optional<int> Tracer::end_of(pid_t pid) const {
  const auto found = ends_.find(pid);
  return found != ends_.end() ? std::optional(found->second) : std::nullopt;
}

std::vector<pid_t> Tracer::threads() const {
  std::vector<pid_t> tids;
  for (const auto& [tid, thread] : threads_) tids.push_back(tid);
  return tids;
}

std::shared_ptr<Space> Tracer::space_of(pid_t tid) const {
  const auto found = threads_.find(tid);
  return found != threads_.end() ? found->second.space : nullptr;
}

std::set<std::shared_ptr<Space>> Tracer::spaces() const {
  std::set<std::shared_ptr<Space>> found;
  for (const auto& [tid, thread] : threads_)
    if (thread.space != nullptr) found.insert(thread.space);
  return found;
}

// What a space knows outlives it.
void Tracer::retire(const std::shared_ptr<Space>& space) {
  if (space == nullptr) return;
  complaints_.insert(space->complaints().begin(), space->complaints().end());
  saw_generated_code_ = saw_generated_code_ || space->has_generated_code();
}

void Tracer::look_around() {
  if (!plant_) {
    next_collect_ = next_look_ = Clock::time_point::max();
    return;
  }
  const auto now = Clock::now();
  if (now >= next_collect_) {
    bool any = false;
    for (const auto& space : spaces()) {
      if (!space->collect()) continue;
      any = true;
      if (stop_world(*space)) space->restore_hit();
      resume_world(*space);
    }
    collect_interval_ = any ? Clock::duration(kShortestInterval)
                            : std::min(collect_interval_ * 2, Clock::duration(kLongestInterval));
    next_collect_ = Clock::now() + collect_interval_;
  }
  if (now >= next_look_) {
    next_look_ = now + kLookInterval;  // before: planting may want another look at once
    for (const auto& space : spaces()) plant_running(space);
  }
}

void Tracer::plant_running(const std::shared_ptr<Space>& space) {
  const bool new_filter = space->has_new_filter();
  if (!space->look() && !new_filter) return;
  if (stop_world(*space)) {
    if (new_filter) space->heed_filter();
    const auto caller = caller_in(*space);
    if (caller) plant_stopped(*space, *caller, StoppedAt::kInterrupt);
  }
  resume_world(*space);
}

void Tracer::plant_at_stop(pid_t tid, StoppedAt where) {
  const auto space = threads_.at(tid).space;
  if (!plant_ || space == nullptr || !space->look()) return;
  if (stop_world(*space)) plant_stopped(*space, tid, where);
  resume_world(*space);
}

void Tracer::plant_stopped(Space& space, pid_t tid, StoppedAt where) {
  std::optional<Stop> met;
  if (space.plant(tid, where, met) || !met) return;
  threads_.at(tid).held = met;  // a signal came in between: let it be handled, then try again
  next_look_ = {};
}

// A thread that can make calls: it was stopped by our interrupt, and nothing else is pending for it.
std::optional<pid_t> Tracer::caller_in(const Space& space) const {
  for (const auto& [tid, thread] : threads_) {
    if (thread.space.get() == &space && !thread.running && thread.held &&
        thread.held->event() == PTRACE_EVENT_STOP && !thread.held->is_group_stop())
      return tid;
  }
  return std::nullopt;
}

bool Tracer::is_blocked_by_vfork(const Thread& thread) const {
  if (!thread.vfork_child) return false;
  const auto child = threads_.find(*thread.vfork_child);
  return child != threads_.end() && !(child->second.held && child->second.held->event() == PTRACE_EVENT_EXEC);
}

bool Tracer::all_stopped(const Space& space) const {
  return std::ranges::none_of(threads_, [&](const auto& entry) {
    const Thread& thread = entry.second;
    return thread.space.get() == &space && thread.running && !is_blocked_by_vfork(thread);
  });
}

// Takes the stops that are there. True when there was one.
bool Tracer::collect_stops(const Space& space) {
  bool any = false;
  for (auto next = threads_.begin(); next != threads_.end();) {
    const auto current = next++;  // handle_end() may erase it
    Thread& thread = current->second;
    if (thread.space.get() != &space || !thread.running) continue;
    const auto stop = poll_stop(current->first);
    if (!stop) continue;
    any = true;
    thread.running = false;
    if (stop->ended()) {
      handle_end(current->first, *stop);
    } else {
      thread.held = stop;
    }
  }
  return any;
}

// Every thread of the space stopped; false when one does not stop (in a system call that nothing
// interrupts). Those that stopped wait for resume_world() either way.
bool Tracer::stop_world(const Space& space) {
  constexpr auto kPatience = 500ms;
  for (const auto& [tid, thread] : threads_)
    if (thread.space.get() == &space && thread.running && !is_blocked_by_vfork(thread)) interrupt(tid);
  const auto deadline = Clock::now() + kPatience;
  while (!all_stopped(space)) {
    if (collect_stops(space)) continue;
    if (Clock::now() > deadline) return false;
    rest_a_moment();
  }
  return true;
}

void Tracer::resume_world(const Space& space) {
  for (;;) {
    const auto held = std::ranges::find_if(threads_, [&](const auto& entry) {
      return entry.second.space.get() == &space && entry.second.held.has_value();
    });
    if (held == threads_.end()) return;
    handle_held(held->first);
  }
}

// Jumps in a process that could not be stopped stay, and do no harm.
void Tracer::detach_all() {
  do {
    for (const auto& space : spaces()) stop_world(*space);
  } while (adopt_held());
  for (const auto& space : spaces()) {
    space->collect();
    retire(space);
    if (all_stopped(*space)) {
      space->restore_all();
    } else {
      complaints_.insert("a thread could not be stopped: jumps stay in its process, and do no harm");
    }
  }
  for (const pid_t tid : threads()) detach_thread(tid);
  threads_.clear();
}

// Children whose birth has not been handled yet are ours, too. True when there was one.
bool Tracer::adopt_held() {
  bool any = false;
  for (const pid_t tid : threads()) {
    Thread& thread = threads_.at(tid);
    if (!thread.held) continue;
    const int event = thread.held->event();
    if (event != PTRACE_EVENT_FORK && event != PTRACE_EVENT_VFORK && event != PTRACE_EVENT_CLONE) continue;
    thread.held = Stop{PTRACE_EVENT_STOP << 16 | SIGTRAP << 8 | 0x7f};
    adopt(tid, event);
    any = true;
  }
  return any;
}

// A thread that does not stop is let go of when the tracer ends.
void Tracer::detach_thread(pid_t tid) {
  Thread& thread = threads_.at(tid);
  if (thread.running && interrupt(tid)) thread.held = stop_within(tid, 20ms);
  const bool signal_waits =
      thread.held && thread.held->event() == 0 && !thread.held->is_system_call() && !is_hook_stop(tid);
  detach(tid, signal_waits ? thread.held->signal() : 0);
}

std::optional<uint64_t> Tracer::sample(pid_t tid) {
  const auto found = threads_.find(tid);
  if (found == threads_.end() || !found->second.running || !interrupt(tid)) return std::nullopt;
  const auto stop = stop_within(tid, 20ms);
  if (!stop) return std::nullopt;
  const auto values = stop->event() == PTRACE_EVENT_STOP ? registers(tid) : std::nullopt;
  handle(tid, *stop);
  return values ? std::optional(values->rip) : std::nullopt;
}

}  // namespace cofre::witness
