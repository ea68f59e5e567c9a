#include "tool/witness_report.h"

#include <fmt/format.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "image/describe.h"

namespace cofre::tool {
namespace {

using nlohmann::ordered_json;
using witness::AesForm;
using witness::FunctionReport;
using witness::ModuleReport;
using witness::Report;
using witness::SiteCount;

std::string counted(uint64_t count, const char* what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : strcmp(what, "process") == 0 ? "es" : "s");
}

std::string how_it_ended(const Report& report) {
  if (!report.end) return "goes on";
  if (report.end->signal != 0)
    return fmt::format("was ended by signal {} ({})", report.end->signal, strsignal(report.end->signal));
  return fmt::format("ended with exit code {}", report.end->exit_code);
}

std::string function_text(const FunctionReport& function) {
  std::string text = fmt::format("  {}", function.name);
  if (function.blocks_at_a_time == 1) text += ", one block at a time";
  if (function.blocks_at_a_time > 1)
    text += fmt::format(", up to {} blocks at a time", function.blocks_at_a_time);
  text += '\n';
  for (const auto& [form, count] : function.forms)
    text += fmt::format("    {:<16} {:>3} bits, {:<10}  {:>4} of {} hit\n", witness::mnemonic(form),
                        form.width_bits, witness::encoding_name(form.encoding), count.hit, count.present);
  return text;
}

std::string module_text(const ModuleReport& module) {
  std::string text = fmt::format("{}: {} of {} hit\n", module.path, module.sites.hit,
                                 counted(module.sites.present, "AES instruction"));
  for (const FunctionReport& function : module.functions) text += function_text(function);
  return text;
}

// What keeps the counts from being the whole truth.
std::string doubts_text(const Report& report) {
  std::string text;
  for (const ModuleReport& module : report.modules) {
    const size_t unwatched = module.sites.present - module.watched;
    if (unwatched != 0)
      text += fmt::format("note: {}: {} not watched\n", module.path, counted(unwatched, "AES instruction"));
    if (module.unproven != 0)
      text += fmt::format(
          "note: {}: {} of AES instructions not watched: no control flow is known to lead there, perhaps "
          "data\n",
          module.path, counted(module.unproven, "look-alike"));
    if (module.unbounded != 0)
      text += fmt::format(
          "note: {}: {} of AES instructions not watched: outside all functions that symbols or .eh_frame "
          "tell of (are debug "
          "symbols available?)\n",
          module.path, counted(module.unbounded, "look-alike"));
    if (!module.unread.empty())
      text += fmt::format("note: {}: not examined: {}\n", module.path, module.unread);
  }
  for (const std::string& complaint : report.complaints) text += fmt::format("note: {}\n", complaint);
  if (report.generated_code)
    text += "note: code in anonymous memory (a just-in-time compiler's) was not examined\n";
  return text;
}

bool has_nameless(const Report& report) {
  for (const ModuleReport& module : report.modules)
    for (const FunctionReport& function : module.functions)
      if (!function.named) return true;
  return false;
}

std::string samples_text(const witness::SampleReport& sampled) {
  std::string text = fmt::format("{} taken with {}\n", counted(sampled.samples, "sample"), sampled.method);
  const auto line = [&](const witness::RoutineShare& routine, const char* remark) {
    return fmt::format("  {:5.1f} %  {}  {}{}\n",
                       100 * static_cast<double>(routine.samples) / static_cast<double>(sampled.samples),
                       routine.module, routine.function, remark);
  };
  for (const witness::RoutineShare& routine : sampled.routines)
    text += line(routine, routine.has_aes_instructions ? "" : " (without AES instructions)");
  if (!sampled.others.empty()) text += "The busiest of the others\n";
  for (const witness::RoutineShare& routine : sampled.others) text += line(routine, "");
  return text;
}

ordered_json form_json(const AesForm& form, const SiteCount& count) {
  return {{"instruction", witness::mnemonic(form)},
          {"encoding", witness::encoding_name(form.encoding)},
          {"width-bits", form.width_bits},
          {"sites", count.present},
          {"sites-hit", count.hit}};
}

ordered_json module_json(const ModuleReport& module) {
  ordered_json functions = ordered_json::array();
  for (const FunctionReport& function : module.functions) {
    ordered_json forms = ordered_json::array();
    for (const auto& [form, count] : function.forms) forms.push_back(form_json(form, count));
    functions.push_back(
        {{"name", function.name}, {"blocks-at-a-time", function.blocks_at_a_time}, {"instructions", forms}});
  }
  ordered_json json = {{"path", module.path},
                       {"sites", module.sites.present},
                       {"sites-watched", module.watched},
                       {"sites-hit", module.sites.hit},
                       {"unproven", module.unproven},
                       {"outside-functions", module.unbounded}};
  if (!module.unread.empty()) json["not-examined"] = module.unread;
  json["functions"] = functions;
  return json;
}

ordered_json routines_json(const std::vector<witness::RoutineShare>& shares) {
  ordered_json routines = ordered_json::array();
  for (const witness::RoutineShare& routine : shares)
    routines.push_back({{"path", routine.module},
                        {"name", routine.function},
                        {"samples", routine.samples},
                        {"aes-instructions", routine.has_aes_instructions}});
  return routines;
}

ordered_json samples_json(const witness::SampleReport& sampled) {
  return {{"method", sampled.method},
          {"samples", sampled.samples},
          {"routines", routines_json(sampled.routines)},
          {"others", routines_json(sampled.others)},
          {"nameless-samples", sampled.nameless_samples}};
}

}  // namespace

std::string witness_report_as_text(const Report& report, const witness::CpuAes& cpu) {
  std::string text = fmt::format("Verdict: {}.\n\n", witness::verdict(report, cpu));
  if (report.sampled) text += samples_text(*report.sampled);
  for (const ModuleReport& module : report.modules)
    if (module.sites.present != 0) text += module_text(module);
  text += fmt::format("{}, {}, watched for {:.1f} s; the program {}\n", counted(report.processes, "process"),
                      counted(report.threads, "thread"), static_cast<double>(report.elapsed.count()) / 1000,
                      how_it_ended(report));
  text += doubts_text(report);
  if (has_nameless(report))
    text += "note: numbers stand for functions without a name: debug symbols (-dbgsym packages) have it\n";
  return text;
}

std::string witness_report_as_json(const Report& report, const witness::CpuAes& cpu) {
  ordered_json json = {{"verdict", witness::verdict(report, cpu)}};
  json["cpu"] = {{"aes-ni", cpu.aesni}, {"vaes-256", cpu.vaes256}, {"vaes-512", cpu.vaes512}};
  json["processes"] = report.processes;
  json["threads"] = report.threads;
  json["seconds"] = static_cast<double>(report.elapsed.count()) / 1000;
  if (report.end && report.end->signal == 0) json["exit-code"] = report.end->exit_code;
  if (report.end && report.end->signal != 0) json["signal"] = report.end->signal;
  if (report.sampled) {
    json["sampled"] = samples_json(*report.sampled);
  } else {
    json["modules"] = ordered_json::array();
    for (const ModuleReport& module : report.modules) json["modules"].push_back(module_json(module));
  }
  json["generated-code"] = report.generated_code;
  json["notes"] = report.complaints;
  return image::print_json(json) + "\n";
}

}  // namespace cofre::tool
