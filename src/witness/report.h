// What a witness saw: which AES instructions were there, which were executed, and a verdict.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "witness/aes_form.h"

namespace cofre::witness {

// What the processor offers, as the caller knows it.
struct CpuAes {
  bool aesni = false;
  bool vaes256 = false;
  bool vaes512 = false;
};

struct SiteCount {
  size_t hit = 0;
  size_t present = 0;
};

struct FunctionReport {
  std::string name;  // "0x2b440" where no symbol says more
  bool named = false;
  std::map<AesForm, SiteCount> forms = {};
  // So many blocks were on their way in the vector unit together: registers side by side times blocks in a
  // register, at most. 0 when no round was executed.
  unsigned blocks_at_a_time = 0;
};

struct ModuleReport {
  std::string path;
  std::string unread = {};  // why nothing is known of it
  SiteCount sites = {};
  size_t watched = 0;                          // of the sites present
  size_t unproven = 0;                         // not watched: may be data
  size_t unbounded = 0;                        // not watched: outside all known functions
  std::vector<FunctionReport> functions = {};  // of which something was hit
};

// Where the time went, by samples.
struct RoutineShare {
  std::string module;
  std::string function;
  uint64_t samples = 0;
  bool has_aes_instructions = false;
  bool is_aes = true;
};

struct SampleReport {
  std::string method;  // "perf" or "ptrace"
  uint64_t samples = 0;
  std::vector<RoutineShare> routines = {};  // of AES (instructions, name or caller); most samples first
  std::vector<RoutineShare> others = {};    // the busiest that are not known to be
  uint64_t nameless_samples = 0;            // in routines of which there is no telling
};

struct ProcessEnd {
  int exit_code = 0;
  int signal = 0;  // that ended it; 0: none
};

struct Report {
  std::vector<ModuleReport> modules = {};
  unsigned processes = 0;
  unsigned threads = 0;
  std::chrono::milliseconds elapsed = {};
  std::optional<ProcessEnd> end = {};     // of the command or process; nothing when it goes on
  bool generated_code = false;            // code in anonymous memory was there, and not looked into
  std::set<std::string> complaints = {};  // what could not be done, each a sentence
  std::optional<SampleReport> sampled = {};
};

// One sentence or two, for people: whose AES it was, how wide, and what the CPU offers besides.
std::string verdict(const Report& report, const CpuAes& cpu);

}  // namespace cofre::witness
