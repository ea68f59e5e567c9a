#include "tool/doctor_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <sstream>

namespace cofre::tool {
namespace {

using doctor::Finding;
using doctor::KernelSpeed;
using doctor::Severity;

constexpr size_t kColumns = 100;
constexpr size_t kTextColumn = 13;

std::string printable(std::string text) {
  std::ranges::replace_if(text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return text;
}

// In lines of at most kColumns, all but the first indented.
std::string wrapped(const std::string& text, size_t column) {
  std::string lines;
  size_t used = column;
  std::istringstream words(printable(text));
  for (std::string word; words >> word;) {
    if (used > column && used + 1 + word.size() > kColumns) {
      lines += "\n" + std::string(column, ' ');
      used = column;
    } else if (used > column) {
      lines += ' ';
      ++used;
    }
    lines += word;
    used += word.size();
  }
  return lines + "\n";
}

std::string painted(const std::string& text, const char* code, bool colours) {
  return colours ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : text;
}

std::string mark(Severity severity, bool colours) {
  const std::string name(severity_name(severity));
  const std::string padding(kTextColumn - 2 - name.size(), ' ');
  const char* code = severity == Severity::kOk ? "32" : severity == Severity::kNote ? "33" : "1;31";
  return painted(name, code, colours) + padding;
}

std::string finding_text(const Finding& finding, bool colours) {
  std::string text = "  " + mark(finding.severity, colours) + wrapped(finding.sentence, kTextColumn);
  if (!finding.remedy.empty())
    text += std::string(kTextColumn, ' ') + "> " + wrapped(finding.remedy, kTextColumn + 2);
  return text;
}

std::string gigabytes(double bytes_per_second) {
  return bytes_per_second > 0 ? fmt::format("{:.2f}", bytes_per_second / 1e9) : "-";
}

std::string speeds_text(const std::vector<KernelSpeed>& speeds) {
  if (speeds.empty()) return "";
  std::string text = fmt::format("\n  {:<24}{:>20}{:>20}\n  {:<24}{:>10}{:>10}{:>10}{:>10}\n",
                                 "one core, GB/s", "AES-256-XTS", "AES-128-CBC", "sectors of 512 bytes",
                                 "encrypt", "decrypt", "encrypt", "decrypt");
  for (const KernelSpeed& entry : speeds)
    fmt::format_to(std::back_inserter(text), "  {:<24}{:>10}{:>10}{:>10}{:>10}\n",
                   entry.by + (entry.in_use ? " (in use)" : ""), gigabytes(entry.speed.xts256_encrypt),
                   gigabytes(entry.speed.xts256_decrypt), gigabytes(entry.speed.cbc128_encrypt),
                   gigabytes(entry.speed.cbc128_decrypt));
  return text;
}

// Findings by what they are about, in the order in which that comes first; those about all of the section
// open it.
std::vector<std::string> subjects_of(const doctor::Section& section) {
  std::vector<std::string> subjects = {""};
  for (const Finding& finding : section.findings)
    if (std::ranges::find(subjects, finding.subject) == subjects.end()) subjects.push_back(finding.subject);
  return subjects;
}

std::string section_text(const doctor::Section& section, bool colours) {
  std::string text = painted(printable(section.title), "1", colours) + "\n";
  for (const std::string& subject : subjects_of(section)) {
    if (!subject.empty()) text += "  " + printable(subject) + ":\n";
    for (const Finding& finding : section.findings)
      if (finding.subject == subject) text += finding_text(finding, colours);
  }
  return text;
}

std::string verdict(size_t attention) {
  if (attention == 0) return "Nothing needs attention.\n";
  return attention == 1 ? "1 finding needs attention.\n"
                        : fmt::format("{} findings need attention.\n", attention);
}

}  // namespace

std::string doctor_page(const std::vector<doctor::Section>& sections, const std::vector<KernelSpeed>& speeds,
                        bool colours) {
  std::string page;
  for (const doctor::Section& section : sections) {
    page += section_text(section, colours);
    if (section.name == "host") page += speeds_text(speeds);
    page += "\n";
  }
  return page + verdict(count_attention(sections));
}

}  // namespace cofre::tool
