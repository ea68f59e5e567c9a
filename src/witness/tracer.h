// Follows processes with ptrace: their threads, forks and execs; keeps their spaces planted; collects hits.
//
// A thread of the caller is the tracer: it makes every call here, blocks SIGCHLD while it does, and has no
// other children. Processes stay traced, so signals take a detour through the tracer; between signals, forks
// and the loading of libraries they run freely.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "witness/space.h"

namespace cofre::witness {

class Tracer {
 public:
  using Clock = std::chrono::steady_clock;

  // `plant`: false only follows.
  Tracer(ModuleCache& modules, bool plant);
  // Detaches.
  ~Tracer();
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  // All threads of a running process. Throws Error.
  void attach(pid_t pid);
  // A child of the caller that waits for this before its exec. Throws Error.
  void attach_child(pid_t pid);

  // Handles what happened, waits at most until `deadline` for more. False when no thread is left.
  bool step(Clock::time_point deadline);
  // Takes the jumps out and lets go of all processes. They run on as if nothing had been.
  void detach_all();

  // How a process that was attached to ended (wait status); nothing while it lives.
  std::optional<int> end_of(pid_t pid) const;
  std::vector<pid_t> threads() const;
  pid_t process_of(pid_t tid) const { return threads_.at(tid).process; }
  std::shared_ptr<Space> space_of(pid_t tid) const;
  unsigned processes_seen() const noexcept { return static_cast<unsigned>(processes_.size()); }
  unsigned threads_seen() const noexcept { return threads_seen_; }
  // What could not be done, each a sentence. Complete after detach_all().
  const std::set<std::string>& complaints() const noexcept { return complaints_; }
  bool saw_generated_code() const noexcept { return saw_generated_code_; }
  // Stops a thread and gives where it stood; nothing when it cannot be stopped at once.
  std::optional<uint64_t> sample(pid_t tid);

 private:
  struct Thread {
    pid_t process = 0;
    std::shared_ptr<Space> space = {};
    bool running = true;
    std::optional<Stop> held = {};          // a stop that waits to be handled
    std::optional<pid_t> vfork_child = {};  // blocks in the kernel while that child borrows the space
  };
  using Threads = std::map<pid_t, Thread>;

  void seize_all(pid_t pid);
  void add(pid_t tid, pid_t process, std::shared_ptr<Space> space);
  std::shared_ptr<Space> make_space(pid_t pid, const Space* parent);
  void retire(const std::shared_ptr<Space>& space);

  void handle(pid_t tid, Stop stop);
  void handle_end(pid_t tid, Stop stop);
  void handle_event(pid_t tid, Stop stop);
  void handle_exec(pid_t tid);
  void handle_signal(pid_t tid, int signal);
  void handle_held(pid_t tid);
  bool is_hook_stop(pid_t tid) const;
  // The thread that was born, if it has stopped already; it is held then.
  std::optional<pid_t> adopt(pid_t parent, int event);
  std::shared_ptr<Space> space_of_child(pid_t child, const Thread& parent, int event);
  void let_go_of_vfork(pid_t child);
  void continue_thread(pid_t tid, int signal);

  bool is_blocked_by_vfork(const Thread& thread) const;
  bool stop_world(const Space& space);
  bool all_stopped(const Space& space) const;
  bool collect_stops(const Space& space);
  void resume_world(const Space& space);
  std::optional<pid_t> caller_in(const Space& space) const;

  void plant_at_stop(pid_t tid, StoppedAt where);
  void plant_running(const std::shared_ptr<Space>& space);
  void plant_stopped(Space& space, pid_t tid, StoppedAt where);
  void look_around();
  std::set<std::shared_ptr<Space>> spaces() const;
  bool adopt_held();
  void detach_thread(pid_t tid);

  ModuleCache& modules_;
  bool plant_;
  Threads threads_ = {};
  std::map<pid_t, Stop> orphans_ = {};  // stops of threads whose birth was not told yet
  std::map<pid_t, int> ends_ = {};
  std::set<pid_t> processes_ = {};
  unsigned threads_seen_ = 0;
  std::set<std::string> complaints_ = {};
  bool saw_generated_code_ = false;
  Clock::time_point next_collect_ = {};
  Clock::time_point next_look_ = {};
  Clock::duration collect_interval_;
};

}  // namespace cofre::witness
