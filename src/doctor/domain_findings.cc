// Whether a domain's guest sees AES instructions.
#include <fmt/format.h>

#include <optional>

#include "doctor/cpu_models.h"
#include "doctor/domain.h"

namespace cofre::doctor {
namespace {

constexpr std::string_view kRemedy =
    "<cpu mode='host-passthrough'/>, or <cpu mode='host-model'/> where guests migrate between unequal hosts";

// What the guest sees, and where from, for people.
struct Sight {
  std::optional<ModelFeatures> features;  // nothing: cannot be told
  std::string from;
};

ModelFeatures of_host(const crypto::CpuFeatures& host) {
  return {.aes = host.aes, .avx2 = host.avx2, .vaes = host.vaes};
}

// "required" and "forced" features are there, "disabled" and "forbidden" ones are not, "optional" ones if the
// host has them.
bool with_policy(bool of_model, bool of_host, const GuestCpu& cpu, const char* feature) {
  const auto found = cpu.policies.find(feature);
  if (found == cpu.policies.end()) return of_model;
  if (found->second == "optional") return of_model || of_host;
  return found->second == "require" || found->second == "force";
}

Sight base_sight(const GuestCpu& cpu, const crypto::CpuFeatures& host) {
  if (cpu.mode == "host-passthrough" || cpu.mode == "host-model" || cpu.mode == "maximum")
    return {of_host(host), "cpu mode " + cpu.mode};
  if (cpu.model.empty()) return {ModelFeatures{}, "no cpu model named, so QEMU's default, qemu64"};
  return {features_of_model(cpu.model), "cpu model " + cpu.model};
}

Sight sight_of(const GuestCpu& cpu, const crypto::CpuFeatures& host) {
  Sight sight = base_sight(cpu, host);
  if (!sight.features) {
    // The features that the domain itself names are known all the same.
    if (!cpu.policies.contains("aes")) return sight;
    sight.features.emplace();
  }
  const ModelFeatures mine = of_host(host);
  sight.features->aes = with_policy(sight.features->aes, mine.aes, cpu, "aes");
  sight.features->avx2 = with_policy(sight.features->avx2, mine.avx2, cpu, "avx2");
  sight.features->vaes = with_policy(sight.features->vaes, mine.vaes, cpu, "vaes");
  if (const auto aes = cpu.policies.find("aes"); aes != cpu.policies.end())
    sight.from += fmt::format(" with <feature policy='{}' name='aes'/>", aes->second);
  return sight;
}

std::string remedy_for(const GuestCpu& cpu, const crypto::CpuFeatures& host) {
  const auto aes = cpu.policies.find("aes");
  if (aes != cpu.policies.end() && (aes->second == "disable" || aes->second == "forbid"))
    return fmt::format("Remove <feature policy='{}' name='aes'/>", aes->second);
  return host.aes ? std::string(kRemedy) : "This host has none to give: another host, or its firmware";
}

// Wide AES that the host has and the guest does not see.
std::string hidden_vectors(const ModelFeatures& guest, const crypto::CpuFeatures& host) {
  std::string hidden;
  if (host.avx2 && !guest.avx2) hidden = "avx2";
  if (host.vaes && !guest.vaes) hidden += hidden.empty() ? "vaes" : ", vaes";
  return hidden;
}

void judge_cpu(const Domain& domain, const crypto::CpuFeatures& host, Section& section) {
  const Sight sight = sight_of(domain.cpu, host);
  if (!sight.features) {
    section.note("guest-cpu-unknown",
                 fmt::format("{}: whether the guest sees AES instructions is not known here", sight.from),
                 "In the guest: grep -c ' aes' /proc/cpuinfo");
  } else if (!sight.features->aes) {
    section.attention(
        "guest-no-aes",
        fmt::format("the guest sees no AES instructions ({}): its own encryption (LUKS, TLS) costs "
                    "many times what it should",
                    sight.from),
        remedy_for(domain.cpu, host));
  } else {
    section.ok("guest-aes", fmt::format("the guest sees AES instructions ({})", sight.from));
    if (const std::string hidden = hidden_vectors(*sight.features, host); !hidden.empty())
      section.note(
          "guest-no-vector-aes",
          fmt::format("the guest does not see {}, which this host has: its own encryption is slower than "
                      "it could be",
                      hidden),
          std::string(kRemedy));
  }
}

Json cpu_json(const Domain& domain, const crypto::CpuFeatures& host) {
  const Sight sight = sight_of(domain.cpu, host);
  Json json = {{"mode", domain.cpu.mode}, {"model", domain.cpu.model}};
  if (sight.features)
    json["guest-sees"] = {
        {"aes", sight.features->aes}, {"avx2", sight.features->avx2}, {"vaes", sight.features->vaes}};
  return json;
}

bool is_x86(const std::string& arch) {
  return arch.empty() || arch == "x86_64" || arch == "i686";
}

}  // namespace

Section examine_domain(const Domain& domain, const crypto::CpuFeatures& host) {
  Section section{.name = "domain", .title = "Domain " + domain.name};
  section.facts = {{"name", domain.name}, {"type", domain.type}, {"arch", domain.arch}};
  if (domain.type == "qemu")
    section.attention("guest-emulated",
                      "type='qemu': the guest's processor is emulated in software, its AES too",
                      "<domain type='kvm'>");
  if (is_x86(domain.arch)) {
    section.facts["cpu"] = cpu_json(domain, host);
    judge_cpu(domain, host, section);
  } else {
    section.note(
        "guest-arch-unknown",
        fmt::format("the guest is of architecture {}, whose processors are not known here", domain.arch));
  }
  section.facts["disks"] = disks_json(domain);
  judge_disks(domain, section);
  return section;
}

}  // namespace cofre::doctor
