// Adding, overwriting, erasing and rotating passphrases; and a power loss at every moment of each.
#include "format/luks/luks1_keyslots.h"

#include <algorithm>

#include "failing_device.h"
#include "layer/record.h"
#include "luks_fixtures.h"
#include "storage/memory.h"

namespace cofre::luks {
namespace {

const std::string kFirst = "the first passphrase";
const std::string kOther = "another one";
const std::string kThird = "the third";
constexpr KeyslotCost kQuick{.forced_iterations = 1000};

// A volume on memory, every change of which is recorded.
class Luks1KeyslotsTest : public testing::Test {
 protected:
  Luks1KeyslotsTest() { restart({}); }

  template <typename Task>
  auto run(Task task) {
    return reactor_.run_until_done(std::move(task));
  }

  // A new volume that kFirst opens; or, for `content`, the one there. The record starts here.
  void restart(std::vector<std::byte> content) {
    auto memory = std::make_unique<storage::MemoryDevice>(content.size(), "volume.luks");
    if (content.empty()) {
      volume_ = run(luks1_format(*memory, kHeaderOffset, quick_options(), as_bytes(kFirst)));
    } else {
      run(memory->write(0, content));
    }
    memory_ = memory.get();
    const std::vector<std::byte> initial = memory->content();
    storage_ = std::make_unique<layer::RecordDevice>(std::move(memory), initial);
  }
  void restart_here() { restart(memory_->content()); }

  Luks1Keyslots keyslots() { return {*storage_, kHeaderOffset, volume_}; }

  std::optional<Luks1Volume> unlock(block::Device& storage, const std::string& passphrase) {
    try {
      return run(luks1_unlock(storage, kHeaderOffset, 0, as_bytes(passphrase)));
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kWrongSecret) throw;
      return std::nullopt;
    }
  }
  bool opens(const std::string& passphrase) { return unlock(*storage_, passphrase).has_value(); }
  std::string states() {
    const Luks1Header header = run(luks1_read_header(*storage_, kHeaderOffset));
    EXPECT_EQ(header.keyslots, volume_.header.keyslots);
    std::string text;
    for (const Luks1Keyslot& slot : header.keyslots) text += slot.active ? '+' : '-';
    return text;
  }
  ConstBytes material(size_t keyslot) {
    return ConstBytes(memory_->content())
        .subspan(kHeaderOffset + volume_.header.material_offset_bytes(keyslot),
                 volume_.header.material_bytes());
  }
  void fill_all_keyslots() {
    while (const auto free = keyslots().free()) run(keyslots().add(*free, as_bytes(kThird), kQuick));
  }

  // After a power loss at any moment since restart(): the header is read, and one of `passphrases` gives the
  // volume key; at the end `after` does.
  void expect_safe(const std::vector<std::string>& passphrases, const std::string& after) {
    for (uint64_t moment = 0; moment <= storage_->moments(); ++moment) {
      for (int draw = 0; draw < 4; ++draw) {
        SCOPED_TRACE(fmt::format("moment {} of {}, draw {}", moment, storage_->moments(), draw));
        const auto left = storage_->replay(moment, random_);
        bool opened = false;
        for (const std::string& passphrase : passphrases) {
          const std::optional<Luks1Volume> volume = unlock(*left, passphrase);
          if (volume) EXPECT_TRUE(std::ranges::equal(volume->volume_key.bytes(), volume_.volume_key.bytes()));
          opened = opened || volume.has_value();
        }
        EXPECT_TRUE(opened);
      }
    }
    const auto left = storage_->replay(storage_->moments(), random_);
    EXPECT_TRUE(unlock(*left, after).has_value());
  }

  static constexpr uint64_t kHeaderOffset = 3 * 4096;

  io::SimulatedReactor reactor_{test_seed()};
  std::mt19937_64 random_{test_seed()};
  Luks1Volume volume_;
  storage::MemoryDevice* memory_ = nullptr;
  std::unique_ptr<layer::RecordDevice> storage_;
};

TEST_F(Luks1KeyslotsTest, EveryKeyslotTakesAPassphraseAndGivesItUp) {
  for (size_t i = 1; i < kLuks1Keyslots; ++i) {
    SCOPED_TRACE(i);
    ASSERT_EQ(keyslots().free(), i);
    run(keyslots().add(i, as_bytes(fmt::format("passphrase {}", i)), kQuick));
    EXPECT_EQ(unlock(*storage_, fmt::format("passphrase {}", i))->keyslot, i);
  }
  EXPECT_EQ(states(), "++++++++");
  EXPECT_EQ(keyslots().free(), std::nullopt);
  EXPECT_TRUE(opens(kFirst));
  for (size_t i = 1; i < kLuks1Keyslots; ++i) {
    run(keyslots().erase(i));
    EXPECT_FALSE(opens(fmt::format("passphrase {}", i)));
  }
  EXPECT_EQ(states(), "+-------");
  EXPECT_TRUE(opens(kFirst));
}

TEST_F(Luks1KeyslotsTest, ErasedMaterialIsOverwritten) {
  run(keyslots().add(4, as_bytes(kOther), kQuick));
  const ConstBytes there = material(4);
  const std::vector<std::byte> before(there.begin(), there.end());
  const Luks1Keyslot entry = keyslots()[4];
  run(keyslots().erase(4));
  const ConstBytes after = material(4);
  size_t same = 0;
  for (size_t i = 0; i < before.size(); ++i) same += before[i] == after[i] ? 1 : 0;
  EXPECT_LT(same, before.size() / 64) << "of random bytes one in 256 is the same";
  // Even with the old entry back, nothing opens it.
  volume_.header.keyslots[4] = entry;
  EXPECT_TRUE(run(keyslots().matching(as_bytes(kOther))).empty());
}

TEST_F(Luks1KeyslotsTest, OnlyTheKeyslotsBytesChange) {
  const std::vector<std::byte> before = memory_->content();
  run(keyslots().add(6, as_bytes(kOther), kQuick));
  const std::vector<std::byte> after = memory_->content();
  ASSERT_EQ(before.size(), after.size());
  const uint64_t entry = kHeaderOffset + luks1_keyslot_offset(6);
  const uint64_t area = kHeaderOffset + volume_.header.material_offset_bytes(6);
  for (uint64_t at = 0; at < before.size(); ++at) {
    const bool in_entry = at >= entry && at < entry + kLuks1KeyslotBytes;
    const bool in_area = at >= area && at < area + volume_.header.material_bytes();
    if (!in_entry && !in_area) ASSERT_EQ(before[at], after[at]) << at;
  }
}

TEST_F(Luks1KeyslotsTest, AnActiveKeyslotIsNotOverwrittenByAccident) {
  const std::vector<std::byte> before = memory_->content();
  expect_error(ErrorKind::kExists, "in use", [&] { run(keyslots().add(0, as_bytes(kOther), kQuick)); });
  expect_error(ErrorKind::kExists, "in use", [&] {
    run(amend_keyslots(keyslots(), {.activate = true, .keyslot = 0, .new_passphrase = as_bytes(kOther)}));
  });
  EXPECT_EQ(before, memory_->content());
}

TEST_F(Luks1KeyslotsTest, TheLastKeyslotIsErasedByForceOnly) {
  const std::vector<std::byte> before = memory_->content();
  for (const KeyslotAmendment& erase :
       {KeyslotAmendment{.keyslot = 0}, KeyslotAmendment{.old_passphrase = as_bytes(kFirst)},
        KeyslotAmendment{.keyslot = 0, .old_passphrase = as_bytes(kFirst)}}) {
    expect_error(ErrorKind::kInvalidArgument, "ever again", [&] { run(amend_keyslots(keyslots(), erase)); });
    EXPECT_EQ(before, memory_->content());
  }
  run(amend_keyslots(keyslots(), {.keyslot = 0, .force = true}));
  EXPECT_EQ(states(), "--------");
  EXPECT_FALSE(opens(kFirst));
}

TEST_F(Luks1KeyslotsTest, ErasesEveryKeyslotOfAPassphrase) {
  const auto add = [&](size_t keyslot, const std::string& passphrase) {
    run(amend_keyslots(keyslots(), {.activate = true,
                                    .keyslot = keyslot,
                                    .new_passphrase = as_bytes(passphrase),
                                    .iter_time = std::chrono::milliseconds(1)}));
  };
  add(2, kOther);
  add(5, kOther);
  add(3, kFirst);
  EXPECT_EQ(states(), "+-++-+--");
  expect_error(ErrorKind::kWrongSecret, "old passphrase",
               [&] { run(amend_keyslots(keyslots(), {.keyslot = 3, .old_passphrase = as_bytes(kOther)})); });
  expect_error(ErrorKind::kWrongSecret, "no keyslot",
               [&] { run(amend_keyslots(keyslots(), {.old_passphrase = as_bytes(kThird)})); });
  run(amend_keyslots(keyslots(), {.old_passphrase = as_bytes(kOther)}));
  EXPECT_EQ(states(), "+--+----");
  expect_error(ErrorKind::kNotFound, "erased", [&] { run(amend_keyslots(keyslots(), {.keyslot = 2})); });
}

TEST_F(Luks1KeyslotsTest, ContradictionsAreRefusedBeforeAnythingIsWritten) {
  const ConstBytes some = as_bytes(kOther);
  const std::vector<KeyslotAmendment> wrong = {
      {.activate = true},
      {.activate = true, .new_passphrase = some, .old_passphrase = some},
      {.activate = true, .keyslot = 8, .new_passphrase = some},
      {.activate = true, .keyslot = -1, .new_passphrase = some},
      {},
      {.keyslot = 1, .new_passphrase = some},
      {.keyslot = 1, .iter_time = std::chrono::milliseconds(1)},
      {.keyslot = 8, .force = true},
  };
  const std::vector<std::byte> before = memory_->content();
  for (const KeyslotAmendment& amendment : wrong)
    expect_error(ErrorKind::kInvalidArgument, "", [&] { run(amend_keyslots(keyslots(), amendment)); });
  EXPECT_EQ(before, memory_->content());
}

TEST_F(Luks1KeyslotsTest, AllKeyslotsInUse) {
  fill_all_keyslots();
  expect_error(ErrorKind::kNoSpace, "in use", [&] {
    run(amend_keyslots(keyslots(), {.activate = true, .new_passphrase = as_bytes(kOther)}));
  });
  expect_error(ErrorKind::kNoSpace, "in use",
               [&] { run(replace_passphrase(keyslots(), as_bytes(kFirst), as_bytes(kOther), kQuick)); });
  run(keyslots().overwrite(0, as_bytes(kOther), kQuick));
  EXPECT_EQ(states(), "++++++++");
  EXPECT_EQ(unlock(*storage_, kOther)->keyslot, 0u);
  EXPECT_FALSE(opens(kFirst));
}

TEST_F(Luks1KeyslotsTest, ReplacesAPassphrase) {
  run(keyslots().add(3, as_bytes(kFirst), kQuick));
  run(keyslots().add(1, as_bytes(kThird), kQuick));
  expect_error(ErrorKind::kInvalidArgument, "is the old one",
               [&] { run(replace_passphrase(keyslots(), as_bytes(kFirst), as_bytes(kFirst), kQuick)); });
  EXPECT_EQ(run(replace_passphrase(keyslots(), as_bytes(kFirst), as_bytes(kOther), kQuick)), 2u);
  EXPECT_EQ(states(), "-++-----");
  EXPECT_FALSE(opens(kFirst));
  EXPECT_TRUE(opens(kOther));
  EXPECT_TRUE(opens(kThird));
}

// ---- power loss at every moment ----

TEST_F(Luks1KeyslotsTest, AddingSurvivesPowerLoss) {
  for (const size_t keyslot : {1u, 6u, 7u}) {  // the entry of number 6 lies in two sectors
    restart_here();
    run(keyslots().add(keyslot, as_bytes(kOther), kQuick));
    expect_safe({kFirst}, kOther);
  }
}

TEST_F(Luks1KeyslotsTest, OverwritingSurvivesPowerLoss) {
  for (const size_t keyslot : {0u, 6u}) {
    restart({});
    if (keyslot != 0) {
      run(keyslots().add(keyslot, as_bytes(kFirst), kQuick));
      run(keyslots().erase(0));
    }
    restart_here();
    run(keyslots().overwrite(keyslot, as_bytes(kOther), kQuick));
    expect_safe({kFirst, kOther}, kOther);
    EXPECT_EQ(states(), keyslot == 0 ? "+-------" : "------+-");
  }
}

TEST_F(Luks1KeyslotsTest, OverwritingOneOfAllSurvivesPowerLoss) {
  fill_all_keyslots();
  restart_here();
  run(keyslots().overwrite(6, as_bytes(kOther), kQuick));
  expect_safe({kFirst}, kOther);
}

TEST_F(Luks1KeyslotsTest, ErasingSurvivesPowerLoss) {
  for (const size_t keyslot : {1u, 6u, 7u}) {
    run(keyslots().add(keyslot, as_bytes(kOther), kQuick));
    restart_here();
    run(keyslots().erase(keyslot));
    expect_safe({kFirst}, kFirst);
    EXPECT_FALSE(opens(kOther));
  }
}

// Once the header gives a keyslot up, its material is gone: no moment leaves a disabled keyslot that opens.
TEST_F(Luks1KeyslotsTest, NoPowerLossLeavesAKeyBehindADisabledKeyslot) {
  run(keyslots().add(6, as_bytes(kOther), kQuick));
  const Luks1Keyslot entry = keyslots()[6];
  restart_here();
  run(keyslots().erase(6));
  size_t disabled = 0;
  for (uint64_t moment = 0; moment <= storage_->moments(); ++moment) {
    const auto left = storage_->replay(moment, random_);
    const Luks1Header header = run(luks1_read_header(*left, kHeaderOffset));
    if (header.keyslots[6].active) continue;
    ++disabled;
    Luks1Volume revived{volume_.header, crypto::SecretBytes::copy_of(volume_.volume_key.bytes()), 0};
    revived.header.keyslots[6] = entry;
    EXPECT_FALSE(run(Luks1Keyslots(*left, kHeaderOffset, revived).opens(6, as_bytes(kOther))));
  }
  EXPECT_GT(disabled, 0u);
}

TEST_F(Luks1KeyslotsTest, RotatingSurvivesPowerLoss) {
  run(keyslots().add(6, as_bytes(kFirst), kQuick));
  restart_here();
  run(replace_passphrase(keyslots(), as_bytes(kFirst), as_bytes(kOther), kQuick));
  expect_safe({kFirst, kOther}, kOther);
}

TEST_F(Luks1KeyslotsTest, AFailureInTheMiddleLeavesAPassphraseThatOpens) {
  const std::vector<std::byte> content = memory_->content();
  bool succeeded = false;
  for (size_t good = 0; !succeeded; ++good) {
    ASSERT_LT(good, 50u);
    SCOPED_TRACE(good);
    storage::MemoryDevice memory(content.size(), "volume.luks");
    run(memory.write(0, content));
    FailingDevice failing(memory, good);
    std::optional<Luks1Volume> volume = unlock(memory, kFirst);
    try {
      run(replace_passphrase(Luks1Keyslots(failing, kHeaderOffset, *volume), as_bytes(kFirst),
                             as_bytes(kOther), kQuick));
      succeeded = true;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kIo);
    }
    EXPECT_TRUE(unlock(memory, kFirst) || unlock(memory, kOther));
  }
}

// Loses what is written at one offset: the new keyslot does not read back.
class ForgetfulDevice final : public FailingDevice {
 public:
  ForgetfulDevice(block::Device& inner, uint64_t lost_offset)
      : FailingDevice(inner, SIZE_MAX), lost_offset_(lost_offset) {}
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags) override {
    if (offset != lost_offset_) co_await FailingDevice::write(offset, source, flags);
  }

 private:
  uint64_t lost_offset_;
};

TEST_F(Luks1KeyslotsTest, TheOldPassphraseStaysWhenTheNewOneDoesNotOpen) {
  ForgetfulDevice forgetful(*memory_, kHeaderOffset + volume_.header.material_offset_bytes(1));
  expect_error(ErrorKind::kIo, "nothing was erased", [&] {
    run(replace_passphrase(Luks1Keyslots(forgetful, kHeaderOffset, volume_), as_bytes(kFirst),
                           as_bytes(kOther), kQuick));
  });
  EXPECT_TRUE(opens(kFirst));
  EXPECT_FALSE(opens(kOther));
}

}  // namespace
}  // namespace cofre::luks
