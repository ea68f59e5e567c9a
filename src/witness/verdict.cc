// The verdict: one sentence or two from all the counts.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "witness/report.h"

namespace cofre::witness {
namespace {

std::string base_name(const std::string& path) {
  return path.substr(path.rfind('/') + 1);
}

// Whose code a library is, as people call it.
std::string provider(const std::string& path) {
  struct Known {
    std::string_view prefix;
    std::string_view name;
  };
  constexpr std::array<Known, 8> kKnown = {{{"libnettle.", "nettle"},
                                            {"libgcrypt.", "libgcrypt"},
                                            {"libcrypto.", "OpenSSL"},
                                            {"libgnutls.", "GnuTLS"},
                                            {"libmbedcrypto.", "Mbed TLS"},
                                            {"libsodium.", "libsodium"},
                                            {"libfreebl", "NSS"},
                                            {"libwolfssl.", "wolfSSL"}}};
  const std::string name = base_name(path);
  for (const Known& known : kKnown)
    if (name.starts_with(known.prefix)) return std::string(known.name);
  return name;
}

// The widest form of rounds that a module executed.
struct Rounds {
  bool any = false;
  bool schedule = false;  // instructions of the key schedule
  AesForm widest = {};
  unsigned blocks_at_a_time = 0;
};

bool is_wider(const AesForm& a, const AesForm& b) {
  return std::pair(a.width_bits, a.encoding) > std::pair(b.width_bits, b.encoding);
}

Rounds rounds_of(const ModuleReport& module) {
  Rounds rounds;
  for (const FunctionReport& function : module.functions) {
    rounds.blocks_at_a_time = std::max(rounds.blocks_at_a_time, function.blocks_at_a_time);
    for (const auto& [form, count] : function.forms) {
      if (count.hit == 0) continue;
      rounds.schedule = rounds.schedule || !form.is_round();
      if (!form.is_round()) continue;
      if (!rounds.any || is_wider(form, rounds.widest)) rounds.widest = form;
      rounds.any = true;
    }
  }
  return rounds;
}

std::string kind_of(const Rounds& rounds) {
  if (rounds.widest.width_bits > 128)
    return fmt::format("VAES on {}-bit registers", rounds.widest.width_bits);
  return "AES-NI";
}

std::string sentence_about(const ModuleReport& module, const Rounds& rounds) {
  const std::string blocks = rounds.blocks_at_a_time == 1
                                 ? "one block at a time"
                                 : fmt::format("up to {} blocks at a time", rounds.blocks_at_a_time);
  const std::string owner = provider(module.path);
  const std::string file = owner == base_name(module.path) ? "" : " (" + base_name(module.path) + ")";
  return fmt::format("{}'s {}{}, {}", owner, kind_of(rounds), file, blocks);
}

// What the CPU has and the program left alone.
std::string comparison(const AesForm& widest, const CpuAes& cpu) {
  const unsigned best = cpu.vaes512 ? 512 : cpu.vaes256 ? 256 : 128;
  if (widest.width_bits >= best) return "";
  if (!widest.is_vaes()) return ": no VAES although the CPU has it";
  return fmt::format(": not the {}-bit registers that the CPU has", best);
}

std::string how_it_failed(const Report& report) {
  if (!report.end || (report.end->exit_code == 0 && report.end->signal == 0)) return "";
  return ". The program failed, perhaps before it came to any: see its own messages";
}

std::string what_is_unread(const Report& report) {
  std::string names;
  for (const ModuleReport& module : report.modules)
    if (!module.unread.empty()) names += (names.empty() ? "" : ", ") + base_name(module.path);
  return names.empty() ? "" : fmt::format(". Not examined: {}", names);
}

std::string verdict_of_none(const Report& report, const CpuAes& cpu) {
  size_t present = 0;
  size_t watched = 0;
  std::string where;
  bool schedule = false;
  for (const ModuleReport& module : report.modules) {
    present += module.sites.present;
    watched += module.watched;
    schedule = schedule || rounds_of(module).schedule;
    if (module.sites.present != 0) where += (where.empty() ? "" : ", ") + base_name(module.path);
  }
  if (present == 0)
    return "no AES instruction stands in the code of the program: AES, if it does any, is done in software" +
           what_is_unread(report);
  if (watched == 0)
    return fmt::format("not known: none of the {} AES instructions in {} could be watched", present, where);
  std::string sentence = fmt::format(
      "no {}AES instruction was executed, of {} ready in {}: AES, if any was done, was done in software{}",
      schedule ? "encrypting or decrypting " : "", present, where,
      cpu.aesni ? " although the CPU has AES-NI" : "");
  if (watched < present) sentence += fmt::format(". {} of them could not be watched", present - watched);
  sentence += what_is_unread(report);
  if (report.generated_code) sentence += ". Code that the program generated was not examined";
  return sentence + how_it_failed(report);
}

// A function without its parameters and "(anonymous namespace)::".
std::string short_name(const std::string& name) {
  constexpr std::string_view kAnonymous = "(anonymous namespace)::";
  std::string shorter = name;
  for (size_t at = 0; (at = shorter.find(kAnonymous)) != std::string::npos;)
    shorter.erase(at, kAnonymous.size());
  return shorter.substr(0, shorter.find('('));
}

// How sure it is, and how the AES was done.
std::string manner_of_samples(const SampleReport& sampled, const CpuAes& cpu) {
  std::string sentence;
  const bool by_instructions = std::ranges::any_of(sampled.routines, &RoutineShare::has_aes_instructions);
  if (!sampled.routines.empty() && !by_instructions)
    sentence = fmt::format(": it is done in software, no AES instruction was met{}",
                           cpu.aesni ? " although the CPU has AES-NI" : "");
  constexpr uint64_t kMatters = 10;  // one in so many
  if (!by_instructions && sampled.nameless_samples * kMatters > sampled.samples)
    sentence += fmt::format(
        ". {:.1f} % is in routines without a name, which may be AES: see below",
        100 * static_cast<double>(sampled.nameless_samples) / static_cast<double>(sampled.samples));
  return sentence;
}

std::string verdict_of_samples(const Report& report, const CpuAes& cpu) {
  const SampleReport& sampled = *report.sampled;
  uint64_t in_aes = 0;
  for (const RoutineShare& routine : sampled.routines) in_aes += routine.samples;
  if (sampled.samples == 0) return "no sample: the program did not run in this time";
  const auto percent = [&](uint64_t part) {
    return 100 * static_cast<double>(part) / static_cast<double>(sampled.samples);
  };
  if (sampled.routines.empty())
    return "no time was seen in routines of AES" + manner_of_samples(sampled, cpu) + how_it_failed(report);
  const RoutineShare& first = sampled.routines.front();
  return fmt::format("{:.1f} % of the program's own time is AES, {:.1f} % in {}'s {}", percent(in_aes),
                     percent(first.samples), provider(first.module), short_name(first.function)) +
         manner_of_samples(sampled, cpu);
}

}  // namespace

std::string verdict(const Report& report, const CpuAes& cpu) {
  if (report.sampled) return verdict_of_samples(report, cpu);
  std::string sentences;
  AesForm widest;
  for (const ModuleReport& module : report.modules) {
    const Rounds rounds = rounds_of(module);
    if (!rounds.any) continue;
    if (sentences.empty() || is_wider(rounds.widest, widest)) widest = rounds.widest;
    sentences += (sentences.empty() ? "" : "; ") + sentence_about(module, rounds);
  }
  return sentences.empty() ? verdict_of_none(report, cpu) : sentences + comparison(widest, cpu);
}

}  // namespace cofre::witness
