// cofre audit: what did encryption miss in the files of an image? Exit status: 0 nothing, 1 the audit failed,
// 2 plain text or keys, 3 notes only.
#include "job/audit.h"

#include <fmt/format.h>

#include "base/error.h"
#include "format/qcow2/check.h"
#include "image/describe.h"
#include "io/lanes.h"
#include "tool/command_line.h"
#include "tool/interrupt.h"
#include "tool/terminal.h"

namespace cofre::tool {
namespace {

constexpr int kFailed = 1;
constexpr int kPlain = 2;
constexpr int kNotes = 3;
constexpr size_t kMostPrinted = 20;  // ranges of a kind, for people

struct AuditArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::string output = "human";
  std::string cache = "writeback";
  bool fix = false;
  bool percent = false;
  bool quiet = false;
  std::vector<std::string> names;
};

void declare(CommandLine& line, AuditArguments& into) {
  into.source.add_to(line);
  line.flag(
      "--fix", into.fix,
      "Wipe what is not in use, and write compressed clusters encrypted (only this needs the passphrase)");
  line.value("--output", into.output, "FORM", "human (default) or json");
  line.value("-T", into.cache, "CACHE", "Cache mode of the image: none, writeback (default), ...");
  line.flag("-p", into.percent, "Show progress in percent");
  line.flag("-q", into.quiet, "Print nothing but errors");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image");
}

class Auditor {
 public:
  Auditor(const Session& session, const AuditArguments& given, image::Secrets& secrets, io::Lanes& lanes)
      : session_(session), given_(given), secrets_(secrets), lanes_(lanes) {}

  io::task<job::AuditReport> look() {
    image::OpenedImage image = co_await image::open_image(given_.source.name(given_.names[0]),
                                                          policy(/*writable=*/false, image::Keys::kUnused));
    format_ = image.top().format;
    encryption_ = encryption_of(image.top());
    ProgressDisplay display(style());
    const HeedingSignals heeding;
    job::AuditReport report = co_await job::audit(image, progress_on(display), lanes_);
    display.finish();
    co_await image.close();
    co_return report;
  }

  // In this order: what is leaked becomes free, compressed clusters become free, all that is free is wiped.
  io::task<void> mend(const job::AuditReport& before) {
    if (encryption_.empty())
      fail(ErrorKind::kUnsupported, "'{}' is not encrypted, which --fix does not change: {}", given_.names[0],
           job::audit_remedy(job::AuditKind::kPlainImage));
    co_await free_leaks();
    if (before.has(job::AuditKind::kCompressedCluster)) co_await encrypt();
    co_await wipe();
  }

  const job::AuditFixes& fixes() const { return fixes_; }
  image::Format format() const { return format_; }
  const std::string& encryption() const { return encryption_; }

 private:
  image::OpenPolicy policy(bool writable, image::Keys keys) {
    return {.writable = writable,
            .force_share = given_.source.force_share && !writable,
            .no_backing = writable,
            .for_check = keys == image::Keys::kUnused,
            .keys = keys,
            .cache = image::parse_cache_mode(given_.cache),
            .secrets = &secrets_};
  }

  ProgressDisplay::Style style() const {
    return ProgressDisplay::choose(session_.is_cofre(), given_.percent, given_.quiet);
  }

  static std::string encryption_of(const image::Layer& layer) {
    if (layer.luks != nullptr) return "luks";
    if (layer.qcow2 == nullptr) return "";
    switch (layer.qcow2->header().crypt_method) {
      case qcow2::CryptMethod::kLuks:
        return "luks";
      case qcow2::CryptMethod::kAes:
        return "aes";
      case qcow2::CryptMethod::kNone:
        break;
    }
    return "";
  }

  io::task<void> free_leaks() {
    image::OpenedImage image = co_await image::open_image(given_.source.name(given_.names[0]),
                                                          policy(/*writable=*/true, image::Keys::kUnused));
    if (image.top().qcow2 != nullptr)
      co_await image::close_after(image, check_sound(*image.top().qcow2));
    else
      co_await image.close();
  }

  io::task<void> check_sound(qcow2::Image& image) {
    const HeedingSignals heeding;
    qcow2::CheckOptions options = {.cancelled = interrupted};
    qcow2::CheckResult result = co_await qcow2::check(image, options);
    if (result.corruptions == 0 && result.check_errors == 0 && result.leaks != 0) {
      options.repair_leaks = true;
      result = co_await qcow2::check(image, options);
    }
    if (result.corruptions != 0 || result.check_errors != 0 || result.leaks != 0)
      fail(ErrorKind::kCorrupt,
           "'{}' is damaged, so what is not in use cannot be told for sure: run cofre check -r all on it "
           "first",
           image.name());
  }

  io::task<void> encrypt() {
    image::ImageName name = given_.source.name(given_.names[0]);
    image::OpenPolicy with_key = policy(/*writable=*/true, image::Keys::kNeeded);
    with_key.no_backing = false;
    image::OpenedImage image = co_await image::open_image(std::move(name), with_key);
    ProgressDisplay display(style());
    const HeedingSignals heeding;
    const job::Progress progress = progress_on(display);
    co_await image::close_after(image, job::encrypt_compressed(image, progress, fixes_));
  }

  io::task<void> wipe() {
    image::OpenedImage image = co_await image::open_image(given_.source.name(given_.names[0]),
                                                          policy(/*writable=*/true, image::Keys::kUnused));
    ProgressDisplay display(style());
    const HeedingSignals heeding;
    const job::Progress progress = progress_on(display);
    co_await image::close_after(image, job::wipe_unused(image, progress, fixes_));
  }

  const Session& session_;
  const AuditArguments& given_;
  image::Secrets& secrets_;
  io::Lanes& lanes_;
  job::AuditFixes fixes_;
  image::Format format_ = image::Format::kRaw;
  std::string encryption_;
};

constexpr auto kKinds = [] {
  std::array<job::AuditKind, job::kAuditKinds> kinds{};
  for (size_t i = 0; i < kinds.size(); ++i) kinds[i] = static_cast<job::AuditKind>(i);
  return kinds;
}();

std::string how_known(const job::AuditFinding& finding) {
  const bool by_look = finding.look != crypto::Look::kZero && finding.look != crypto::Look::kRandom;
  std::string text = finding.detail;
  if (by_look) text += fmt::format("{}{}", text.empty() ? "" : ", ", crypto::look_name(finding.look));
  return text.empty() ? "" : fmt::format(" ({})", text);
}

void print_kind(const job::AuditReport& report, job::AuditKind kind) {
  const job::AuditTotal& total = report.total(kind);
  if (total.ranges == 0) return;
  fmt::print("\n{}: {}\n  {} bytes in {} ranges:\n", job::is_note(kind) ? "Note" : "FOUND",
             job::audit_sentence(kind), total.bytes, total.ranges);
  size_t printed = 0;
  for (const job::AuditFinding& finding : report.findings()) {
    if (finding.kind != kind || ++printed > kMostPrinted) continue;
    fmt::print("    {}: offset {}, {} bytes{}\n", finding.file, finding.offset, finding.length_bytes,
               how_known(finding));
  }
  if (total.ranges > kMostPrinted) fmt::print("    and {} more\n", total.ranges - kMostPrinted);
  fmt::print("  To do: {}.\n", job::audit_remedy(kind));
}

void print_fixes(const job::AuditFixes& fixes) {
  fmt::print("{} bytes of compressed clusters were encrypted, {} unused bytes wiped, {} keyslots wiped.\n",
             fixes.bytes_encrypted, fixes.bytes_wiped, fixes.keyslots_wiped);
}

void print_text(const job::AuditReport& report, const job::AuditFixes* fixes) {
  if (fixes != nullptr) print_fixes(*fixes);
  if (!report.has_plain())
    fmt::print("No unencrypted data was found: {} bytes were examined.\n", report.bytes_examined);
  for (const job::AuditKind kind : kKinds) print_kind(report, kind);
  if (report.broken_references != 0)
    fmt::print(
        "\n{} references in the tables cannot be followed, and what they mean was taken for unused: run "
        "cofre "
        "check.\n",
        report.broken_references);
}

nlohmann::ordered_json json_of(const job::AuditFinding& finding) {
  nlohmann::ordered_json json;
  json["kind"] = job::audit_id(finding.kind);
  json["severity"] = job::is_note(finding.kind) ? "note" : "plain";
  json["file"] = finding.file;
  json["offset"] = finding.offset;
  json["length"] = finding.length_bytes;
  if (finding.look != crypto::Look::kZero && finding.look != crypto::Look::kRandom)
    json["evidence"] = crypto::look_name(finding.look);
  if (!finding.detail.empty()) json["detail"] = finding.detail;
  return json;
}

void print_as_json(const Auditor& auditor, const job::AuditReport& report, const job::AuditFixes* fixes,
                   const std::string& filename) {
  nlohmann::ordered_json json;
  json["filename"] = filename;
  json["format"] = image::format_name(auditor.format());
  if (!auditor.encryption().empty()) json["encryption"] = auditor.encryption();
  json["bytes-examined"] = report.bytes_examined;
  json["broken-references"] = report.broken_references;
  json["totals"] = nlohmann::ordered_json::object();
  for (const job::AuditKind kind : kKinds) {
    const job::AuditTotal& total = report.total(kind);
    if (total.ranges == 0) continue;
    json["totals"][job::audit_id(kind)] = {{"ranges", total.ranges},
                                           {"bytes", total.bytes},
                                           {"fixable", job::is_fixable(kind)},
                                           {"sentence", job::audit_sentence(kind)},
                                           {"remedy", job::audit_remedy(kind)}};
  }
  json["findings"] = nlohmann::ordered_json::array();
  for (const job::AuditFinding& finding : report.findings()) json["findings"].push_back(json_of(finding));
  if (fixes != nullptr)
    json["fixed"] = {{"bytes-encrypted", fixes->bytes_encrypted},
                     {"bytes-wiped", fixes->bytes_wiped},
                     {"keyslots-wiped", fixes->keyslots_wiped}};
  fmt::print("{}\n", image::print_json(json));
}

int exit_status(const job::AuditReport& report) {
  if (report.has_plain()) return kPlain;
  if (report.broken_references != 0) return kFailed;
  return report.has_notes() ? kNotes : 0;
}

}  // namespace

int run_audit(const Session& session, const std::vector<std::string>& arguments) {
  AuditArguments given;
  CommandLine line(
      session, "audit", "[--fix] [--output human|json] [-f FMT] [-p] [-q] [-U] FILE",
      "Finds what encryption missed: compressed clusters, plain text in clusters that are not in use, behind "
      "metadata, in snapshots, in the data file, in backing files, and what erased keyslots left. Exit "
      "status: "
      "0 nothing, 1 the audit failed, 2 plain text or keys were found, 3 notes only.");
  declare(line, given);
  line.parse(arguments);
  if (given.names.size() != 1) line.fail_usage("expecting one image file name");
  if (given.fix && given.source.force_share)
    line.fail_usage("--fix needs the image for itself: -U has no meaning with it");
  const bool json = parse_output_is_json(given.output);
  image::Secrets secrets = given.secrets.secrets();
  io::Lanes lanes;
  Auditor auditor(session, given, secrets, lanes);
  job::AuditReport report = lanes.run(auditor.look());
  if (given.fix) {
    lanes.run(auditor.mend(report));
    report = lanes.run(auditor.look());
  }
  const job::AuditFixes* const fixes = given.fix ? &auditor.fixes() : nullptr;
  if (json && !given.quiet) print_as_json(auditor, report, fixes, given.names[0]);
  if (!json && !given.quiet) print_text(report, fixes);
  return exit_status(report);
}

}  // namespace cofre::tool
