// What the tracer does with each stop: births, execs, signals, ends.
#include <linux/kcmp.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "witness/process_facts.h"
#include "witness/tracer.h"

namespace cofre::witness {
namespace {

// Whether two processes share their memory; nothing when the system does not say.
std::optional<bool> share_memory(pid_t one, pid_t other) {
  const long order = ::syscall(SYS_kcmp, one, other, KCMP_VM, 0, 0);
  if (order < 0) return std::nullopt;
  return order == 0;
}

}  // namespace

void Tracer::continue_thread(pid_t tid, int signal) {
  const auto found = threads_.find(tid);
  if (found == threads_.end() || found->second.running) return;
  found->second.running = true;  // gone ones are told about by waitpid
  resume(tid, signal);
}

void Tracer::handle(pid_t tid, Stop stop) {
  const auto found = threads_.find(tid);
  if (stop.ended()) return handle_end(tid, stop);
  if (found == threads_.end()) {
    orphans_[tid] = stop;
    return;
  }
  found->second.running = false;
  if (stop.event() != 0) return handle_event(tid, stop);
  if (stop.is_system_call()) return continue_thread(tid, 0);
  handle_signal(tid, stop.signal());
}

void Tracer::handle_held(pid_t tid) {
  Thread& thread = threads_.at(tid);
  const Stop stop = *thread.held;
  thread.held.reset();
  handle(tid, stop);
}

void Tracer::handle_end(pid_t tid, Stop stop) {
  let_go_of_vfork(tid);
  orphans_.erase(tid);
  const auto found = threads_.find(tid);
  if (found == threads_.end()) return;
  if (found->second.process == tid) ends_[tid] = stop.status;
  retire(found->second.space);
  threads_.erase(found);
}

void Tracer::let_go_of_vfork(pid_t child) {
  for (auto& [tid, thread] : threads_)
    if (thread.vfork_child == child) thread.vfork_child.reset();
}

void Tracer::handle_event(pid_t tid, Stop stop) {
  switch (stop.event()) {
    case PTRACE_EVENT_FORK:
    case PTRACE_EVENT_VFORK:
    case PTRACE_EVENT_CLONE:
      if (const auto born = adopt(tid, stop.event())) handle_held(*born);
      break;
    case PTRACE_EVENT_EXEC:
      handle_exec(tid);
      break;
    case PTRACE_EVENT_EXIT:  // the last moment in which its memory can be read
      if (const auto& space = threads_.at(tid).space; space != nullptr) space->collect();
      break;
    default:
      if (stop.is_group_stop()) {
        threads_.at(tid).running = true;  // until SIGCONT
        listen(tid);
        return;
      }
  }
  continue_thread(tid, 0);
}

// All other threads of the process are gone, and it has a new memory.
void Tracer::handle_exec(pid_t tid) {
  let_go_of_vfork(tid);
  const pid_t process = threads_.at(tid).process;
  std::erase_if(threads_,
                [&](const auto& entry) { return entry.second.process == process && entry.first != tid; });
  Thread& thread = threads_.at(tid);
  retire(thread.space);
  thread.vfork_child.reset();
  thread.space = make_space(tid, nullptr);
  plant_at_stop(tid, StoppedAt::kExec);
}

bool Tracer::is_hook_stop(pid_t tid) const {
  const auto space = space_of(tid);
  const auto information = signal_information(tid);
  const auto values = registers(tid);
  return space != nullptr && information && values && information->si_signo == SIGURG &&
         information->si_code == SI_TKILL && space->is_hook_signal(values->rip);
}

void Tracer::handle_signal(pid_t tid, int signal) {
  if (signal != SIGURG || !is_hook_stop(tid)) return continue_thread(tid, signal);
  plant_at_stop(tid, StoppedAt::kSignal);
  continue_thread(tid, 0);
}

std::shared_ptr<Space> Tracer::space_of_child(pid_t child, const Thread& parent, int event) {
  if (parent.space == nullptr) return make_space(child, nullptr);
  const bool shared = share_memory(parent.process, child).value_or(event == PTRACE_EVENT_VFORK);
  return shared ? parent.space : make_space(child, parent.space.get());
}

std::optional<pid_t> Tracer::adopt(pid_t parent_tid, int event) {
  const auto child = event_thread(parent_tid);
  if (!child || threads_.contains(*child)) return std::nullopt;
  const Thread parent = threads_.at(parent_tid);
  const pid_t process =
      witness::process_of(*child).value_or(event == PTRACE_EVENT_CLONE ? parent.process : *child);
  const bool is_thread = process == parent.process;
  const auto space = is_thread ? parent.space : space_of_child(*child, parent, event);
  add(*child, process, space);
  if (event == PTRACE_EVENT_VFORK && space == parent.space) threads_.at(parent_tid).vfork_child = *child;
  const auto orphan = orphans_.find(*child);
  if (orphan == orphans_.end()) return std::nullopt;
  threads_.at(*child).running = false;
  threads_.at(*child).held = orphan->second;
  orphans_.erase(orphan);
  return child;
}

}  // namespace cofre::witness
