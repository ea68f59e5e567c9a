#include "doctor/finding.h"

#include <algorithm>

namespace cofre::doctor {
namespace {

constexpr int kSchema = 1;

Json finding_json(const Finding& finding) {
  Json json = {
      {"id", finding.id}, {"severity", severity_name(finding.severity)}, {"sentence", finding.sentence}};
  if (!finding.remedy.empty()) json["remedy"] = finding.remedy;
  if (!finding.subject.empty()) json["subject"] = finding.subject;
  return json;
}

}  // namespace

std::string_view severity_name(Severity severity) noexcept {
  switch (severity) {
    case Severity::kOk:
      return "ok";
    case Severity::kNote:
      return "note";
    case Severity::kAttention:
      break;
  }
  return "attention";
}

void Section::ok(std::string id, std::string sentence, std::string subject) {
  findings.push_back({std::move(id), Severity::kOk, std::move(sentence), {}, std::move(subject)});
}

void Section::note(std::string id, std::string sentence, std::string remedy, std::string subject) {
  findings.push_back(
      {std::move(id), Severity::kNote, std::move(sentence), std::move(remedy), std::move(subject)});
}

void Section::attention(std::string id, std::string sentence, std::string remedy, std::string subject) {
  findings.push_back(
      {std::move(id), Severity::kAttention, std::move(sentence), std::move(remedy), std::move(subject)});
}

size_t count_attention(const std::vector<Section>& sections) noexcept {
  size_t count = 0;
  for (const Section& section : sections)
    count +=
        static_cast<size_t>(std::ranges::count(section.findings, Severity::kAttention, &Finding::severity));
  return count;
}

Json report_json(const std::vector<Section>& sections) {
  Json report = {{"schema", kSchema}, {"attention", count_attention(sections)}};
  for (const Section& section : sections) {
    Json json = section.facts;
    Json findings = Json::array();
    for (const Finding& finding : section.findings) findings.push_back(finding_json(finding));
    json["findings"] = std::move(findings);
    report[section.name] = std::move(json);
  }
  return report;
}

}  // namespace cofre::doctor
