// The measurement itself, without a word about how fast anything is: turns are taken one after the other, and
// every subject says truly how many bytes it has done.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "crypto/measure/limit.h"
#include "crypto/measure/report.h"
#include "crypto/support.h"

namespace cofre::crypto {
namespace {

constexpr SpeedEffort kLittle = {.turns = 3, .turn = std::chrono::microseconds(50)};

// Takes time, says bytes, and notes when its work was asked for.
class Noting final : public SpeedSubject {
 public:
  Noting(char name, size_t bytes, std::string& notes) : name_(name), bytes_(bytes), notes_(notes) {}
  size_t work(size_t times) override {
    if (notes_.empty() || notes_.back() != name_) notes_ += name_;
    std::this_thread::sleep_for(std::chrono::microseconds(100) * times);
    return times * bytes_;
  }

 private:
  char name_;
  size_t bytes_;
  std::string& notes_;
};

TEST(MeasureSpeeds, SubjectsTakeTurns) {
  std::string notes;
  std::vector<std::unique_ptr<SpeedSubject>> subjects;
  subjects.push_back(std::make_unique<Noting>('a', 1000, notes));
  subjects.push_back(nullptr);
  subjects.push_back(std::make_unique<Noting>('b', 3000, notes));
  std::vector<size_t> done;
  const auto speeds = measure_speeds(subjects, kLittle, [&](size_t so_far, size_t total) {
    EXPECT_EQ(total, 9u);
    done.push_back(so_far);
  });
  EXPECT_EQ(notes, "ababab");
  EXPECT_THAT(done, testing::ElementsAre(1, 2, 3, 4, 5, 6, 7, 8, 9));
  ASSERT_EQ(speeds.size(), 3u);
  EXPECT_EQ(speeds[1].best, 0);
  for (const size_t i : {0, 2}) {
    EXPECT_GT(speeds[i].median, 0);
    EXPECT_GE(speeds[i].best, speeds[i].median);
    // A sleep is never shorter than asked for.
    EXPECT_LE(speeds[i].best, (i == 0 ? 1000 : 3000) / 100e-6);
  }
}

TEST(MeasureSpeeds, ProgressMayStopIt) {
  std::string notes;
  std::vector<std::unique_ptr<SpeedSubject>> subjects;
  subjects.push_back(std::make_unique<Noting>('a', 1, notes));
  const auto stop = [](size_t, size_t) { throw std::runtime_error("enough"); };
  EXPECT_THROW(measure_speeds(subjects, kLittle, stop), std::runtime_error);
}

TEST(MeasureSubjects, SayHowManyBytesTheyDid) {
  const auto buffers = make_speed_buffers();
  for (const SpeedCase& what : all_speed_cases()) {
    SCOPED_TRACE(what.spec.to_string() + " " + std::to_string(what.run_bytes));
    if (what.run_bytes > 4096) continue;
    for (const AesKernel* kernel : kernels_here()) {
      const uint64_t before = kernel->sectors_done();
      EXPECT_EQ(make_kernel_subject(*kernel, what, buffers)->work(3), 3 * what.run_bytes);
      EXPECT_EQ(kernel->sectors_done(), before + 3 * what.run_bytes / what.sector_bytes) << kernel->name;
    }
    const bool essiv = what.spec.iv == IvGenerator::essiv;
    for (const auto make : {make_openssl_subject, make_gcrypt_subject}) {
      const auto peer = make(what, buffers);
      ASSERT_EQ(peer == nullptr, essiv);
      if (peer) EXPECT_EQ(peer->work(2), 2 * what.run_bytes);
    }
  }
}

TEST(MeasureLimit, EveryKernelWithInstructionsHasOne) {
  for (const AesKernel* kernel : kernels_here()) {
    const auto limit = make_limit_subject(*kernel, CipherAlgorithm::aes128);
    EXPECT_EQ(limit == nullptr, kernel->register_bytes == 0) << kernel->name;
    if (limit) EXPECT_GT(limit->work(1), 0u);
  }
  EXPECT_EQ(run_aes_instructions(0, 10, 1000), 0u);
  EXPECT_EQ(run_aes_instructions(7, 10, 1000), 0u) << "no registers of that width";
}

TEST(MeasureReport, SharesAreOfTheKernelsOwnLimit) {
  const std::vector<const AesKernel*> kernels = kernels_here();
  const SpeedCase what = {
      {CipherAlgorithm::aes256, CipherMode::xts, IvGenerator::plain64, {}}, Direction::decrypt, 512, 4096};
  const SpeedReport report = measure_aes(kernels, {what}, kLittle);
  ASSERT_EQ(report.rows.size(), 1u);
  ASSERT_EQ(report.rows[0].figures.size(), kernels.size() + 2);
  for (size_t i = 0; i < kernels.size(); ++i) {
    const SpeedFigure& figure = report.rows[0].figures[i];
    EXPECT_EQ(figure.by, kernels[i]->name);
    EXPECT_GT(figure.speed.best, 0);
    double limit = 0;
    for (const LimitFigure& candidate : report.limits)
      if (candidate.kernel == kernels[i] && candidate.algorithm == CipherAlgorithm::aes256)
        limit = candidate.speed.best;
    EXPECT_DOUBLE_EQ(figure.share_of_limit, limit > 0 ? figure.speed.best / limit : 0);
  }
}

}  // namespace
}  // namespace cofre::crypto
