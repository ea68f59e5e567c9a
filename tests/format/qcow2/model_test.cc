// Random requests against a model of the bytes, over every shape of image; then the image is closed, found
// clean, and opened again.
#include "model_rig.h"

namespace cofre::qcow2 {
namespace {

class Model : public testing::TestWithParam<Shape> {};

TEST_P(Model, RandomRequests) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(seed);
  ModelRig rig(GetParam(), seed);
  rig.create();
  rig.expect_clean();
  for (int generation = 0; generation < 3; ++generation) {
    rig.open();
    rig.verify();
    for (int i = 0; i < rounds(20); ++i) {
      rig.burst(static_cast<int>(rig.random()() % 12) + 1);
      if (HasFatalFailure()) return;
    }
    rig.verify();
    rig.close();
    rig.expect_clean();
    if (HasFailure()) return;
  }
  rig.open();
  rig.verify();
  if (GetParam().create.data_file_raw && GetParam().create.encryption == CryptMethod::kNone) {
    std::vector<std::byte>& raw = rig.data_file().content();
    EXPECT_TRUE(std::equal(rig.model().begin(), rig.model().end(), raw.begin()))
        << "the raw data file differs";
  }
  rig.close();
}

std::string test_name(const testing::TestParamInfo<Shape>& info) {
  std::string name;
  for (const char c : info.param.name) name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name + "_" + std::to_string(info.index);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Model, testing::ValuesIn(all_shapes()), test_name);

}  // namespace
}  // namespace cofre::qcow2
