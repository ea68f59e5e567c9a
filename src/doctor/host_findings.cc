// What is right and wrong with a host.
#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "doctor/host.h"
#include "image/size.h"

namespace cofre::doctor {
namespace {

using crypto::CpuFeatures;

// Those of `need` in `have`, "aes, vaes".
std::string feature_list(const CpuFeatures& features) {
  return missing_features(CpuFeatures{}, features);
}

std::string refused_kernel_remedy(const HostFacts& facts) {
  return fmt::format("Unset COFRE_AES: Cofre then takes {} by itself", facts.best_kernel);
}

void judge_kernel(const HostFacts& facts, Section& section) {
  if (facts.kernel.empty()) {
    section.attention("aes-kernel-refused",
                      fmt::format("COFRE_AES names a kernel that cannot be: {}", facts.kernel_refusal),
                      refused_kernel_remedy(facts));
    return;
  }
  const std::string kernel = fmt::format("{} ({})", facts.kernel, facts.kernel_description);
  if (!facts.forced_kernel) {
    section.ok("aes-kernel", fmt::format("AES kernel {}, the best that this processor runs", kernel));
  } else if (facts.kernel == facts.best_kernel) {
    section.note("aes-kernel-forced",
                 fmt::format("AES kernel {}, as COFRE_AES says; it would be the same without", kernel));
  } else {
    section.attention("aes-kernel-forced-lesser",
                      fmt::format("AES kernel {}, because COFRE_AES says so; this processor runs {}", kernel,
                                  facts.best_kernel),
                      refused_kernel_remedy(facts));
  }
}

void judge_processor(const HostFacts& facts, Section& section) {
  const CpuFeatures usable = usable_features(facts.cpu);
  const std::string features = feature_list(usable);
  if (usable.aes)
    section.ok("cpu-aes",
               fmt::format("the processor has AES instructions, and of what Cofre uses: {}", features));
  else
    section.attention(
        "cpu-no-aes", "the processor offers no AES instructions: encryption costs many times what it should",
        "If this host is a virtual machine, give it the processor of its own host (libvirt: <cpu "
        "mode='host-passthrough'/>); else look for a setting of the firmware");
  const std::string unsaved = missing_features(usable, facts.cpu.features);
  if (!unsaved.empty())
    section.attention(
        "cpu-state-not-saved",
        fmt::format("the processor has {}, but the operating system does not save the registers "
                    "(XCR0), so nobody can use them",
                    unsaved),
        "Look for noxsave or clearcpuid= on the kernel's command line, or for a hypervisor that "
        "masks XSAVE");
}

// In the order of what explains most.
void judge_io_uring(const HostFacts& facts, Section& section) {
  if (facts.io_uring_refusal == 0) {
    section.ok("io-uring", "I/O goes through io_uring");
    return;
  }
  std::string why;
  std::string remedy;
  if (facts.io_uring_disabled.value_or(0) != 0) {
    why = fmt::format("the sysctl kernel.io_uring_disabled is {}", *facts.io_uring_disabled);
    remedy = *facts.io_uring_disabled == 1
                 ? "To permit it: put this user into the group of the sysctl kernel.io_uring_group"
                 : "To permit it: sysctl kernel.io_uring_disabled=0";
  } else if (facts.seccomp_filter) {
    why = "a seccomp filter forbids it, as those of containers do";
    remedy = "To permit it: allow io_uring_setup, io_uring_enter and io_uring_register in the filter";
  } else if (facts.io_uring_refusal == ENOSYS) {
    why = fmt::format("the kernel ({}) has none", facts.kernel_release);
  } else {
    why = fmt::format("the kernel refuses it: {}", std::strerror(facts.io_uring_refusal));
    if (facts.io_uring_refusal == ENOMEM) remedy = "Raise the limit on locked memory (ulimit -l)";
  }
  section.note("io-threads", fmt::format("I/O goes through threads instead of io_uring: {}", why), remedy);
}

void judge_huge_pages(const HostFacts& facts, Section& section) {
  if (facts.huge_pages.empty()) return;
  if (facts.huge_pages == "never")
    section.note("huge-pages-off",
                 "transparent huge pages are off: the memory of guests is made of 4 KiB pages although QEMU "
                 "asks for huge ones",
                 "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
  else
    section.ok("huge-pages", fmt::format("transparent huge pages: {}", facts.huge_pages));
}

void judge_memory_lock(const HostFacts& facts, Section& section) {
  const MemoryLock& lock = facts.memory_lock;
  const std::string limit = lock.limit_bytes ? image::format_size(*lock.limit_bytes) : "none";
  const std::string needed = image::format_size(lock.needed_bytes);
  if (lock.refusal == 0)
    section.ok("memory-lock",
               fmt::format("passphrases and keys stay in locked memory: {} an image, and the limit "
                           "on locked memory is {}",
                           needed, limit));
  else
    section.attention(
        "memory-lock-refused",
        fmt::format("passphrases and keys may reach the swap: they need {} of locked memory, and "
                    "the limit is {} ({})",
                    needed, limit, std::strerror(lock.refusal)),
        fmt::format("Raise it: ulimit -l {} or more, LimitMEMLOCK= of a service, memlock in "
                    "/etc/security/limits.conf",
                    (lock.needed_bytes + 1023) / 1024));
}

Json cpu_json(const HostFacts& facts) {
  const CpuFeatures usable = usable_features(facts.cpu);
  Json features = Json::object();
  Json offered = Json::object();
  for (const crypto::CpuFeatureName& feature : crypto::kCpuFeatureNames) {
    features[std::string(feature.name)] = usable.*feature.member;
    offered[std::string(feature.name)] = facts.cpu.features.*feature.member;
  }
  return {{"usable", features},
          {"offered", offered},
          {"ymm-saved", facts.cpu.ymm_saved},
          {"zmm-saved", facts.cpu.zmm_saved}};
}

Json io_json(const HostFacts& facts) {
  Json json = {{"backend", facts.io_uring_refusal == 0 ? "io_uring" : "threads"},
               {"kernel", facts.kernel_release},
               {"seccomp-filter", facts.seccomp_filter}};
  if (facts.io_uring_refusal != 0) json["io-uring-errno"] = facts.io_uring_refusal;
  if (facts.io_uring_disabled) json["io-uring-disabled"] = *facts.io_uring_disabled;
  return json;
}

Json host_json(const HostFacts& facts) {
  Json kernel = {{"name", facts.kernel}, {"best", facts.best_kernel}};
  if (facts.forced_kernel) kernel["forced"] = *facts.forced_kernel;
  Json lock = {{"needed-bytes", facts.memory_lock.needed_bytes}, {"locked", facts.memory_lock.refusal == 0}};
  if (facts.memory_lock.limit_bytes) lock["limit-bytes"] = *facts.memory_lock.limit_bytes;
  Json json = {{"cpu", cpu_json(facts)},
               {"aes-kernel", kernel},
               {"io", io_json(facts)},
               {"transparent-huge-pages", facts.huge_pages},
               {"memory-lock", lock}};
  if (!facts.speeds.empty()) json["speeds"] = speeds_json(facts.speeds);
  return json;
}

}  // namespace

Section examine_host(const HostFacts& facts) {
  Section section{.name = "host", .title = "Host", .facts = host_json(facts)};
  judge_processor(facts, section);
  judge_kernel(facts, section);
  judge_speeds(facts.speeds, section);
  judge_io_uring(facts, section);
  judge_huge_pages(facts, section);
  judge_memory_lock(facts, section);
  return section;
}

}  // namespace cofre::doctor
