#include "doctor/host.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include <cerrno>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "crypto/aes/select.h"
#include "crypto/secret.h"
#include "format/luks/luks1_header.h"
#include "io/reactor.h"

namespace cofre::doctor {
namespace {

std::string first_line(const char* path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

void look_at_kernels(HostFacts& facts) {
  if (const auto forced = crypto::forced_aes_kernel()) facts.forced_kernel = std::string(*forced);
  facts.best_kernel = crypto::best_aes_kernel(crypto::cpu_features()).name;
  try {
    const crypto::AesKernel& kernel = crypto::selected_aes_kernel();
    facts.kernel = kernel.name;
    facts.kernel_description = kernel.description;
  } catch (const Error& error) {
    facts.kernel_refusal = error.what();
  }
}

std::optional<unsigned> io_uring_sysctl() {
  std::istringstream text(first_line("/proc/sys/kernel/io_uring_disabled"));
  unsigned value = 0;
  if (!(text >> value)) return std::nullopt;
  return value;
}

// proc(5): "Seccomp:" of /proc/PID/status is 0 (off), 1 (strict) or 2 (a filter).
bool under_seccomp_filter() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("Seccomp:")) return line.ends_with('2');
  return false;
}

std::string release_of_kernel() {
  utsname name = {};
  return uname(&name) == 0 ? name.release : "";
}

// The errno of locking `bytes` bytes now; 0: it worked.
int try_to_lock(uint64_t bytes) {
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return errno;
  const int refusal = mlock(memory, bytes) == 0 ? 0 : errno;
  munmap(memory, bytes);
  return refusal;
}

MemoryLock look_at_memory_lock() {
  // Keys, passphrases and schedules are small secrets; opening a keyslot holds its whole material.
  const luks::Luks1Header usual =
      luks::luks1_plan_header(crypto::CipherSpec{}, crypto::DigestAlgorithm::sha256);
  MemoryLock lock;
  lock.needed_bytes = crypto::secret_region_bytes() + usual.material_bytes();
  rlimit limit = {};
  if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    lock.limit_bytes = limit.rlim_cur;
  lock.refusal = try_to_lock(lock.needed_bytes);
  return lock;
}

}  // namespace

std::string chosen_word(const std::string& text) {
  const size_t open = text.find('[');
  const size_t close = text.find(']', open == std::string::npos ? 0 : open);
  if (open == std::string::npos || close == std::string::npos) return "";
  return text.substr(open + 1, close - open - 1);
}

HostFacts look_at_host() {
  HostFacts facts;
  facts.cpu = crypto::cpu_offer();
  look_at_kernels(facts);
  facts.io_uring_refusal = io::io_uring_refusal();
  facts.io_uring_disabled = io_uring_sysctl();
  facts.seccomp_filter = under_seccomp_filter();
  facts.kernel_release = release_of_kernel();
  facts.huge_pages = chosen_word(first_line("/sys/kernel/mm/transparent_hugepage/enabled"));
  facts.memory_lock = look_at_memory_lock();
  return facts;
}

}  // namespace cofre::doctor
