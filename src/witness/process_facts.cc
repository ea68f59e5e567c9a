#include "witness/process_facts.h"

#include <elf.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"

namespace cofre::witness {
namespace {

namespace fs = std::filesystem;

std::string proc(pid_t pid, const char* name) {
  return fmt::format("/proc/{}/{}", pid, name);
}

// The value of a line "Name:\tvalue" of /proc/PID/status.
std::optional<std::string> status_field(pid_t pid, const std::string& name) {
  std::ifstream status(proc(pid, "status"));
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with(name + ":")) continue;
    const size_t start = line.find_first_not_of(" \t", name.size() + 1);
    return start == std::string::npos ? std::string() : line.substr(start);
  }
  return std::nullopt;
}

std::optional<int> number(const std::string& text) {
  int value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  return result.ec == std::errc() ? std::optional(value) : std::nullopt;
}

std::optional<int> status_number(pid_t pid, const std::string& name) {
  const auto text = status_field(pid, name);
  return text ? number(*text) : std::nullopt;
}

// For the end of a sentence. Yama (Linux's Documentation/admin-guide/LSM/Yama.rst): 1 leaves a user its own
// descendants, 2 leaves none, 3 leaves even root none.
std::string what_forbids_tracing(const TraceRights& rights) {
  if (rights.yama_scope == 3)
    return ": kernel.yama.ptrace_scope is 3, which forbids it to everybody until the next boot";
  if (rights.is_root) return ", even by root: in a container, give it the capability SYS_PTRACE";
  if (rights.yama_scope == 2)
    return ": kernel.yama.ptrace_scope is 2: be root, or set it to 0 (sysctl kernel.yama.ptrace_scope=0)";
  if (rights.yama_scope == 1)
    return ": kernel.yama.ptrace_scope is 1: be root, start the program with `cofre witness -- COMMAND`, or "
           "set it to 0 (sysctl kernel.yama.ptrace_scope=0)";
  return ": it is another user's, or protects itself: be root";
}

// Yama's restriction, which Debian sets to 0, Ubuntu to 1; 0 where there is no Yama.
int yama_scope() {
  int scope = 0;
  std::ifstream("/proc/sys/kernel/yama/ptrace_scope") >> scope;
  return scope;
}

}  // namespace

std::vector<pid_t> threads_of(pid_t pid) {
  std::vector<pid_t> threads;
  std::error_code error;
  for (fs::directory_iterator entry(proc(pid, "task"), error), end; !error && entry != end;
       entry.increment(error))
    if (const auto tid = number(entry->path().filename().string())) threads.push_back(*tid);
  return threads;
}

std::optional<pid_t> process_of(pid_t tid) {
  return status_number(tid, "Tgid");
}

int seccomp_mode_of(pid_t tid) {
  return status_number(tid, "Seccomp").value_or(0);
}

std::optional<int> seccomp_filters_of(pid_t tid) {
  return status_number(tid, "Seccomp_filters");
}

bool has_ended(pid_t pid) {
  const auto state = status_field(pid, "State");
  return !state || state->starts_with('Z') || state->starts_with('X');
}

void require_x86_64(pid_t pid) {
  std::array<char, sizeof(Elf64_Ehdr)> bytes = {};
  std::ifstream file(proc(pid, "exe"), std::ios::binary);
  if (!file.read(bytes.data(), bytes.size())) return;
  Elf64_Ehdr header;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return;
  if (header.e_ident[EI_CLASS] == ELFCLASS64 && header.e_machine == EM_X86_64) return;
  fail(ErrorKind::kUnsupported,
       "process {} executes {} code: witness understands 64-bit x86-64 programs only", pid,
       header.e_ident[EI_CLASS] == ELFCLASS32 ? "32-bit" : "another processor's");
}

void require_traceable(pid_t pid) {
  const auto state = status_field(pid, "State");
  if (pid <= 0 || !state)
    fail(ErrorKind::kNotFound, "there is no process {}: pgrep finds processes by name", pid);
  const auto process = process_of(pid);
  if (process && *process != pid)
    fail(ErrorKind::kInvalidArgument, "{} is a thread of process {}: give that number", pid, *process);
  if (state->starts_with('Z')) fail(ErrorKind::kNotFound, "process {} has ended (it is a zombie)", pid);
  if (pid == ::getpid()) fail(ErrorKind::kInvalidArgument, "process {} is the witness itself", pid);
  if (!status_field(pid, "VmSize"))
    fail(ErrorKind::kUnsupported, "process {} is a thread of the kernel, which has no program", pid);
  const int tracer = status_number(pid, "TracerPid").value_or(0);
  if (tracer != 0)
    fail(ErrorKind::kLocked,
         "process {} is traced already, by process {} (a debugger, strace): end that first", pid, tracer);
  require_x86_64(pid);
}

TraceRights trace_rights() {
  return {.is_root = ::geteuid() == 0, .yama_scope = yama_scope()};
}

// The kernel says EPERM of a process that is just ending, too.
void fail_to_trace(pid_t pid, int errno_value, const TraceRights& rights) {
  if (errno_value == ESRCH || has_ended(pid)) fail(ErrorKind::kNotFound, "process {} has ended", pid);
  if (errno_value != EPERM && errno_value != EACCES)
    fail_errno(errno_value, "process {} cannot be traced", pid);
  fail(ErrorKind::kPermission, "process {} cannot be traced{}", pid, what_forbids_tracing(rights));
}

}  // namespace cofre::witness
