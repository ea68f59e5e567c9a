#include "crypto/measure/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "base/units.h"

namespace cofre::crypto {
namespace {

constexpr CipherAlgorithm kAlgorithms[] = {CipherAlgorithm::aes128, CipherAlgorithm::aes256};
constexpr size_t kRuns[] = {512, 4 * kKiB, 64 * kKiB, kMiB};

void add_cases(std::vector<SpeedCase>& cases, const CipherSpec& spec) {
  for (const Direction direction : {Direction::encrypt, Direction::decrypt})
    for (const uint32_t sector_bytes : {512u, 4096u})
      for (const size_t run_bytes : kRuns)
        if (run_bytes >= sector_bytes) cases.push_back({spec, direction, sector_bytes, run_bytes});
}

// The subjects of a measurement, and where their figures go.
class Plan {
 public:
  Plan(const std::vector<const AesKernel*>& kernels, const std::vector<SpeedCase>& cases) {
    for (const AesKernel* kernel : kernels)
      for (const CipherAlgorithm algorithm : kAlgorithms)
        if (auto limit = make_limit_subject(*kernel, algorithm)) {
          report_.limits.push_back({kernel, algorithm, {}});
          subjects_.push_back(std::move(limit));
        }
    for (const SpeedCase& what : cases) add_row(kernels, what);
  }

  SpeedReport run(const SpeedEffort& effort, const SpeedProgress& progress) {
    const std::vector<Speed> speeds = measure_speeds(subjects_, effort, progress);
    size_t next = 0;
    for (LimitFigure& limit : report_.limits) limit.speed = speeds[next++];
    for (SpeedRow& row : report_.rows)
      for (SpeedFigure& figure : row.figures) {
        figure.speed = speeds[next++];
        const double limit = limit_of(figure.by, row.what.spec.algorithm);
        if (limit > 0) figure.share_of_limit = figure.speed.best / limit;
      }
    return std::move(report_);
  }

 private:
  void add_row(const std::vector<const AesKernel*>& kernels, const SpeedCase& what) {
    SpeedRow& row = report_.rows.emplace_back(what, std::vector<SpeedFigure>{});
    for (const AesKernel* kernel : kernels) {
      row.figures.push_back({std::string(kernel->name), {}, 0});
      subjects_.push_back(make_kernel_subject(*kernel, what, buffers_));
    }
    row.figures.push_back({openssl_name(), {}, 0});
    subjects_.push_back(make_openssl_subject(what, buffers_));
    row.figures.push_back({gcrypt_name(), {}, 0});
    subjects_.push_back(make_gcrypt_subject(what, buffers_));
  }

  double limit_of(std::string_view by, CipherAlgorithm algorithm) const {
    for (const LimitFigure& limit : report_.limits)
      if (limit.kernel->name == by && limit.algorithm == algorithm) return limit.speed.best;
    return 0;
  }

  std::shared_ptr<SpeedBuffers> buffers_ = make_speed_buffers();
  std::vector<std::unique_ptr<SpeedSubject>> subjects_;
  SpeedReport report_;
};

double in_gigabytes(const Speed& speed) {
  return speed.best / 1e9;
}

std::string size_text(size_t bytes) {
  if (bytes >= kMiB) return fmt::format("{} MiB", bytes / kMiB);
  return bytes >= kKiB ? fmt::format("{} KiB", bytes / kKiB) : fmt::format("{} B", bytes);
}

std::string limits_text(const std::vector<LimitFigure>& limits) {
  std::string text = "AES instructions alone, on registers: the limit, GB/s\n";
  for (const LimitFigure& limit : limits)
    fmt::format_to(std::back_inserter(text), "  {:<8} {:>3}-bit registers  {}  {:6.2f}\n", limit.kernel->name,
                   8 * limit.kernel->register_bytes, cipher_algorithm_name(limit.algorithm),
                   in_gigabytes(limit.speed));
  return text;
}

constexpr size_t kColumn = 12;

// A kernel: "14.42   86%" of its limit. A library: "2.95 (4.9x)", how many times as fast the first kernel is.
std::string figure_text(const SpeedFigure& figure, const SpeedFigure& first) {
  if (figure.speed.best == 0) return "-";
  if (figure.share_of_limit > 0)
    return fmt::format("{:.2f} {:3.0f}%", in_gigabytes(figure.speed), 100 * figure.share_of_limit);
  if (&figure == &first) return fmt::format("{:.2f}      ", in_gigabytes(figure.speed));
  return fmt::format("{:.2f} ({:.1f}x)", in_gigabytes(figure.speed), first.speed.best / figure.speed.best);
}

std::string heading_text(const SpeedRow& row) {
  std::string text =
      fmt::format("\n{}, GB/s\n  {:<7}  {:>6}  {:>7}", row.what.spec.to_string(), "", "sector", "run");
  for (const SpeedFigure& figure : row.figures)
    fmt::format_to(std::back_inserter(text), "  {:>{}}", figure.by.substr(0, figure.by.find(' ')), kColumn);
  return text + "\n";
}

std::string row_text(const SpeedRow& row) {
  std::string text = fmt::format("  {:<7}  {:>6}  {:>7}", direction_name(row.what.direction),
                                 row.what.sector_bytes, size_text(row.what.run_bytes));
  for (const SpeedFigure& figure : row.figures)
    fmt::format_to(std::back_inserter(text), "  {:>{}}", figure_text(figure, row.figures.front()), kColumn);
  return text + "\n";
}

}  // namespace

std::vector<SpeedCase> all_speed_cases() {
  std::vector<SpeedCase> cases;
  for (const CipherAlgorithm algorithm : kAlgorithms) {
    add_cases(cases, {algorithm, CipherMode::xts, IvGenerator::plain64, DigestAlgorithm::sha256});
    add_cases(cases, {algorithm, CipherMode::cbc, IvGenerator::plain64, DigestAlgorithm::sha256});
  }
  // The digest is as long as a key of 256 bits.
  add_cases(cases, {CipherAlgorithm::aes256, CipherMode::cbc, IvGenerator::essiv, DigestAlgorithm::sha256});
  return cases;
}

SpeedReport measure_aes(const std::vector<const AesKernel*>& kernels, const std::vector<SpeedCase>& cases,
                        const SpeedEffort& effort, const SpeedProgress& progress) {
  return Plan(kernels, cases).run(effort, progress);
}

std::string speed_text(const SpeedReport& report) {
  std::string text = limits_text(report.limits);
  const CipherSpec* before = nullptr;
  for (const SpeedRow& row : report.rows) {
    if (before == nullptr || !(*before == row.what.spec)) text += heading_text(row);
    text += row_text(row);
    before = &row.what.spec;
  }
  return text + fmt::format(
                    "\nOne core. %: of the limit of the kernel's instructions. x: how many times as fast the "
                    "first kernel is.\n"
                    "{}, {}: one call a sector.\n",
                    openssl_name(), gcrypt_name());
}

std::string_view direction_name(Direction direction) noexcept {
  return direction == Direction::encrypt ? "encrypt" : "decrypt";
}

}  // namespace cofre::crypto
