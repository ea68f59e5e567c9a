// The host: what its processor and kernel let Cofre do. Any lane.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "crypto/cpu.h"
#include "doctor/finding.h"
#include "doctor/speeds.h"

namespace cofre::doctor {

struct MemoryLock {
  std::optional<uint64_t> limit_bytes;  // RLIMIT_MEMLOCK; nothing: no limit
  uint64_t needed_bytes = 0;            // by the secrets of one image
  int refusal = 0;                      // the errno of locking so much; 0: it worked
};

struct HostFacts {
  crypto::CpuOffer cpu;
  std::optional<std::string> forced_kernel;  // what COFRE_AES says
  std::string kernel;                        // the AES kernel in use; empty: the forced one is refused
  std::string kernel_description;
  std::string kernel_refusal;  // why
  std::string best_kernel;     // of this processor
  int io_uring_refusal = 0;    // an errno; 0: permitted
  std::optional<unsigned>
      io_uring_disabled;        // the sysctl kernel.io_uring_disabled; kernels before 6.6 lack it
  bool seccomp_filter = false;  // this process runs under one
  std::string kernel_release;   // "6.1.0-18-amd64"
  std::string huge_pages;       // transparent ones: "always", "madvise", "never"; empty: cannot be told
  MemoryLock memory_lock;
  std::vector<KernelSpeed> speeds;  // empty: not measured
};

// Locks and unlocks some memory. Throws nothing but std::bad_alloc.
HostFacts look_at_host();

Section examine_host(const HostFacts& facts);

// The word in brackets of "always [madvise] never"; empty if there is none.
std::string chosen_word(const std::string& text);

}  // namespace cofre::doctor
