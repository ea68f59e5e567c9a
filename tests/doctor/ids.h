// Findings of a section in a form that tests compare.
#pragma once

#include <algorithm>
#include <string>

#include "doctor/finding.h"

namespace cofre::doctor {

// The severity of the finding with that id; empty: there is none.
inline std::string found(const Section& section, const std::string& id) {
  const auto finding = std::ranges::find(section.findings, id, &Finding::id);
  return finding == section.findings.end() ? "" : std::string(severity_name(finding->severity));
}

inline size_t attentions(const Section& section) {
  return count_attention({section});
}

inline std::string sentence(const Section& section, const std::string& id) {
  const auto finding = std::ranges::find(section.findings, id, &Finding::id);
  return finding == section.findings.end() ? "" : finding->sentence;
}

}  // namespace cofre::doctor
