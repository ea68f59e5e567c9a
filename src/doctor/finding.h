// What a doctor says: findings, as data. Any lane.
//
// An id stays the same from version to version; sentences may become better. Whoever looks at something fills
// a struct of facts; whoever judges makes findings from facts alone, so that every finding can be tested.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace cofre::doctor {

using Json = nlohmann::ordered_json;

enum class Severity {
  kOk,         // as it should be
  kNote,       // worth knowing; may well be meant so
  kAttention,  // unsafe, broken or needlessly slow
};
// "ok", "note", "attention".
std::string_view severity_name(Severity severity) noexcept;

struct Finding {
  std::string id;  // "luks-few-iterations"
  Severity severity = Severity::kOk;
  std::string sentence;
  std::string remedy = {};   // what to do: a sentence or a command; may be empty
  std::string subject = {};  // the image file or the disk it is about; empty: all of the section
};

// What was looked at as a whole: the host, an image, a domain.
struct Section {
  std::string name;   // the key in JSON: "host", "image", "domain"
  std::string title;  // for people
  Json facts = Json::object();
  std::vector<Finding> findings = {};

  void ok(std::string id, std::string sentence, std::string subject = {});
  void note(std::string id, std::string sentence, std::string remedy = {}, std::string subject = {});
  void attention(std::string id, std::string sentence, std::string remedy = {}, std::string subject = {});
};

// How many findings need attention.
size_t count_attention(const std::vector<Section>& sections) noexcept;

// The schema, version 1: {"schema": 1, "attention": N, SECTION: {FACTS..., "findings": [{"id", "severity",
// "sentence", "remedy"?, "subject"?}]}}. Keys are only ever added.
Json report_json(const std::vector<Section>& sections);

}  // namespace cofre::doctor
