#include "doctor/speeds.h"

#include <fmt/format.h>

#include <algorithm>

#include "crypto/aes/select.h"
#include "crypto/measure/report.h"

namespace cofre::doctor {
namespace {

// Smaller differences come and go with the load of the machine.
constexpr double kClearlyFaster = 1.15;

struct Measured {
  crypto::SpeedCase what;
  double AesSpeed::* into;
};

std::vector<Measured> measured_cases() {
  using crypto::CipherAlgorithm;
  using crypto::Direction;
  const crypto::CipherSpec xts = {CipherAlgorithm::aes256, crypto::CipherMode::xts};
  const crypto::CipherSpec cbc = {CipherAlgorithm::aes128, crypto::CipherMode::cbc};
  return {{{xts, Direction::encrypt}, &AesSpeed::xts256_encrypt},
          {{xts, Direction::decrypt}, &AesSpeed::xts256_decrypt},
          {{cbc, Direction::encrypt}, &AesSpeed::cbc128_encrypt},
          {{cbc, Direction::decrypt}, &AesSpeed::cbc128_decrypt}};
}

std::vector<const crypto::AesKernel*> runnable_kernels() {
  std::vector<const crypto::AesKernel*> kernels;
  for (const crypto::AesKernel* kernel : crypto::aes_kernels())
    if (has_all(crypto::cpu_features(), kernel->needs)) kernels.push_back(kernel);
  return kernels;
}

crypto::SpeedEffort effort_for(std::chrono::milliseconds each) {
  constexpr std::chrono::microseconds kTurn{1000};
  return {.turns = std::max(1, static_cast<int>(each / kTurn)), .turn = kTurn};
}

// XTS is what new images use: the sum of both directions decides.
double xts_speed(const KernelSpeed& speed) {
  return speed.speed.xts256_encrypt + speed.speed.xts256_decrypt;
}

const KernelSpeed* fastest(const std::vector<KernelSpeed>& speeds, bool of_libraries) {
  const KernelSpeed* best = nullptr;
  for (const KernelSpeed& speed : speeds)
    if (speed.is_library == of_libraries && (best == nullptr || xts_speed(speed) > xts_speed(*best)))
      best = &speed;
  return best;
}

std::string beside_libraries(const std::vector<KernelSpeed>& speeds, const KernelSpeed& used) {
  std::string text;
  for (const KernelSpeed& other : speeds)
    if (other.is_library && xts_speed(other) > 0)
      text += fmt::format("{}{:.1f} times {}", text.empty() ? ": " : ", ", xts_speed(used) / xts_speed(other),
                          other.by);
  return text;
}

}  // namespace

std::vector<KernelSpeed> measure_aes_speeds(const std::string& in_use, std::chrono::milliseconds each) {
  const std::vector<Measured> cases = measured_cases();
  const std::vector<const crypto::AesKernel*> kernels = runnable_kernels();
  std::vector<crypto::SpeedCase> what;
  for (const Measured& measured : cases) what.push_back(measured.what);
  const crypto::SpeedReport report = crypto::measure_aes(kernels, what, effort_for(each));

  std::vector<KernelSpeed> speeds;
  for (size_t i = 0; i < report.rows.at(0).figures.size(); ++i) {
    const std::string& by = report.rows[0].figures[i].by;
    KernelSpeed& speed = speeds.emplace_back(KernelSpeed{by, i >= kernels.size(), by == in_use, {}});
    for (size_t row = 0; row < cases.size(); ++row)
      speed.speed.*cases[row].into = report.rows[row].figures[i].speed.best;
  }
  return speeds;
}

void judge_speeds(const std::vector<KernelSpeed>& speeds, Section& section) {
  const auto used = std::ranges::find(speeds, true, &KernelSpeed::in_use);
  if (used == speeds.end()) return;
  section.ok("aes-speed",
             fmt::format("{} encrypts {} and decrypts {} with AES-256-XTS on one core{}", used->by,
                         speed_text(used->speed.xts256_encrypt), speed_text(used->speed.xts256_decrypt),
                         beside_libraries(speeds, *used)));
  const KernelSpeed* kernel = fastest(speeds, /*of_libraries=*/false);
  if (kernel != nullptr && xts_speed(*kernel) > kClearlyFaster * xts_speed(*used))
    section.note("aes-other-kernel-faster",
                 fmt::format("the AES kernel {} was {:.1f} times as fast as {} in this measurement",
                             kernel->by, xts_speed(*kernel) / xts_speed(*used), used->by),
                 fmt::format("If that repeats on the idle machine: set COFRE_AES={}", kernel->by));
  const KernelSpeed* library = fastest(speeds, /*of_libraries=*/true);
  if (library != nullptr && xts_speed(*library) > kClearlyFaster * xts_speed(*used))
    section.attention("aes-library-faster",
                      fmt::format("{} is {:.1f} times as fast as the AES kernel {} that Cofre uses here",
                                  library->by, xts_speed(*library) / xts_speed(*used), used->by));
}

Json speeds_json(const std::vector<KernelSpeed>& speeds) {
  Json list = Json::array();
  for (const KernelSpeed& entry : speeds)
    list.push_back({{"by", entry.by},
                    {"library", entry.is_library},
                    {"in-use", entry.in_use},
                    {"aes-256-xts-encrypt-bytes-per-second", entry.speed.xts256_encrypt},
                    {"aes-256-xts-decrypt-bytes-per-second", entry.speed.xts256_decrypt},
                    {"aes-128-cbc-encrypt-bytes-per-second", entry.speed.cbc128_encrypt},
                    {"aes-128-cbc-decrypt-bytes-per-second", entry.speed.cbc128_decrypt}});
  return list;
}

std::string speed_text(double bytes_per_second) {
  return bytes_per_second >= 1e9 ? fmt::format("{:.1f} GB/s", bytes_per_second / 1e9)
                                 : fmt::format("{:.0f} MB/s", bytes_per_second / 1e6);
}

}  // namespace cofre::doctor
