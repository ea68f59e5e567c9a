// Persistent dirty bitmaps: over random sessions of writes and actions they hold what a model holds; at every
// moment of a session a crash leaves each bitmap right or in use; errors and damage never make one that lies.
#include <map>
#include <set>

#include "base/checked.h"
#include "format/luks/peer_tools.h"
#include "format/qcow2/bitmap_actions.h"
#include "format/qcow2/state.h"
#include "layer/fault.h"
#include "layer/record.h"
#include "support.h"

namespace cofre::qcow2 {
namespace {

struct Model {
  bool enabled = true;
  unsigned granularity_bits = 12;
  std::set<uint64_t> dirty;  // granules

  bool operator==(const Model&) const = default;
  void set(uint64_t begin, uint64_t end) {
    for (uint64_t bit = begin >> granularity_bits; begin < end && bit <= (end - 1) >> granularity_bits; ++bit)
      dirty.insert(bit);
  }
};
using Models = std::map<std::string, Model>;

std::set<uint64_t> granules(const DirtyBitmap& bits) {
  std::set<uint64_t> dirty;
  const uint64_t unit = uint64_t{1} << bits.granularity_bits();
  for (uint64_t at = bits.next_dirty(0); at < bits.disk_bytes(); at = bits.next_dirty(at + unit))
    dirty.insert(at >> bits.granularity_bits());
  return dirty;
}

struct Form {
  const char* name;
  CreateOptions create;
};

std::vector<Form> forms() {
  std::vector<Form> forms;
  const auto add = [&](const char* name, uint32_t cluster_bits, uint64_t size_bytes) -> CreateOptions& {
    forms.push_back({name, {}});
    CreateOptions& create = forms.back().create;
    create.cluster_bits = cluster_bits;
    create.size_bytes = size_bytes;
    return create;
  };
  add("clusters of 512", 9, 3 * kMiB);  // bitmaps of several clusters, tables of several too
  add("clusters of 512, wide refcounts", 9, kMiB).refcount_order = 6;
  add("clusters of 4096, narrow refcounts", 12, kMiB).refcount_order = 0;
  add("clusters of 64 KiB", 16, 4 * kMiB);
  add("lazy refcounts", 12, kMiB).lazy_refcounts = true;
  add("subclusters", 14, kMiB + 512).extended_l2 = true;
  add("data file", 12, kMiB).data_file = "data.raw";
  add("aes", 12, kMiB).encryption = CryptMethod::kAes;
  return forms;
}

// Sessions on an image in memory, and what its bitmaps and its guest must hold.
class Rig {
 public:
  Rig(const CreateOptions& create, uint64_t seed) : create_(create), random_(seed), reactor_(seed) {
    file_.mutable_limits().growable = data_.mutable_limits().growable = true;
    run(create_image(file_, create_, as_bytes("secret")));
    if (create_.data_file) run(data_.resize(create_.size_bytes));
    if (create_.size_bytes <= kGiB) content_.resize(create_.size_bytes);
  }

  template <typename T>
  T run(io::task<T> work) {
    return reactor_.run_until_done(std::move(work));
  }
  std::unique_ptr<Image> open(std::unique_ptr<block::Device> file, block::Device& data,
                              const OpenOptions& options = {}) {
    auto image = run(Image::open(std::move(file), options));
    if (create_.data_file && !options.for_check) image->set_data_file(std::make_unique<Borrowed>(data));
    if (image->needs_secret()) run(image->unlock(as_bytes("secret")));
    return image;
  }
  std::unique_ptr<Image> open() { return open(std::make_unique<Borrowed>(file_), data_); }

  // Random writes and actions, noted in the models.
  void act(Image& image, int count) {
    for (int i = 0; i < count; ++i) random_() % 3 == 0 ? change_bitmaps(image) : write(image);
  }

  void write(Image& image) {
    const uint64_t sectors = content_.size() / kSectorBytes;
    const uint64_t offset = random_() % sectors * kSectorBytes;
    const uint64_t length =
        std::min((1 + random_() % (random_() % 3 == 0 ? 400 : 16)) * kSectorBytes, content_.size() - offset);
    const auto range = std::span(content_).subspan(offset, length);
    for (auto& [name, model] : models_)
      if (model.enabled) model.set(offset, offset + length);
    switch (random_() % 4) {
      case 0:
        std::ranges::fill(range, std::byte{0});
        return run(image.write_zeroes(offset, length, {.may_unmap = random_() % 2 == 0}));
      case 1:
        run(image.discard(offset, length));  // of which only whole clusters read as zero
        return run(image.read(offset, range));
      default:
        for (std::byte& byte : range) byte = static_cast<std::byte>(random_());
        return run(image.write(offset, range));
    }
  }

  void change_bitmaps(Image& image) {
    const std::string name(1, static_cast<char>('a' + random_() % 5));
    const auto found = models_.find(name);
    if (found == models_.end()) {
      const auto granularity_bits = static_cast<unsigned>(9 + random_() % 9);
      run(add_bitmap(image, name, uint64_t{1} << granularity_bits));
      models_[name] = {.enabled = true, .granularity_bits = granularity_bits, .dirty = {}};
      return;
    }
    Model& model = found->second;
    switch (random_() % 6) {
      case 0:
        run(remove_bitmap(image, name));
        models_.erase(found);
        return;
      case 1:
        run(clear_bitmap(image, name));
        return model.dirty.clear();
      case 2: {
        const std::string source = models_.begin()->first;
        run(merge_bitmap(image, name, source));
        const Model from = models_.begin()->second;
        for (const uint64_t bit : from.dirty)
          model.set(bit << from.granularity_bits,
                    std::min<uint64_t>((bit + 1) << from.granularity_bits, content_.size()));
        return;
      }
      default:
        model.enabled = random_() % 2 == 0;
        return run(enable_bitmap(image, name, model.enabled));
    }
  }

  // The consistent bitmaps of an image.
  Models read(Image& image) {
    Models models;
    for (const BitmapEntry& entry : bitmaps_of(image)) {
      if (entry.in_use()) continue;
      models[entry.name] = {.enabled = entry.enabled(),
                            .granularity_bits = entry.granularity_bits,
                            .dirty = granules(run(read_bitmap(image, entry.name)))};
    }
    return models;
  }

  CheckResult check(std::unique_ptr<block::Device> file, bool repair = false) {
    auto image = open(std::move(file), data_, {.for_check = true});
    const CheckResult result =
        run(qcow2::check(*image, {.repair_leaks = repair,
                                  .repair_errors = repair,
                                  .report = [this](const std::string& finding) { finding_ = finding; }}));
    run(image->close());
    return result;
  }

  void expect_sound() {
    const CheckResult result = check(std::make_unique<Borrowed>(file_));
    EXPECT_EQ(result.corruptions + result.leaks + result.check_errors, 0u) << finding_;
    auto image = open();
    EXPECT_EQ(read(*image), models_);
    run(image->close());
  }

  CreateOptions create_;
  std::mt19937_64 random_;
  io::SimulatedReactor reactor_;
  storage::MemoryDevice file_{0, "image.qcow2"};
  storage::MemoryDevice data_{0, "data.raw"};
  std::vector<std::byte> content_;
  Models models_;
  std::string finding_;
};

template <typename Round>
void for_each_form(int in_release, Round round) {
  const uint64_t seed = test_seed();
  const std::vector<Form> all = forms();
  for (int i = 0; i < rounds(in_release) || i < static_cast<int>(all.size()); ++i) {
    const Form& form = all[static_cast<size_t>(i) % all.size()];
    SCOPED_TRACE(testing::Message() << "seed " << seed << " round " << i << " " << form.name);
    round(form, seed + static_cast<uint64_t>(i));
    if (testing::Test::HasFailure()) return;
  }
}

TEST(Bitmaps, HoldWhatTheModelHolds) {
  for_each_form(120, [](const Form& form, uint64_t seed) {
    Rig rig(form.create, seed);
    for (int session = 0; session < 5 && !testing::Test::HasFailure(); ++session) {
      auto image = rig.open();
      rig.act(*image, static_cast<int>(rig.random_() % 20));
      rig.run(image->close());
      rig.expect_sound();
    }
  });
}

TEST(Bitmaps, FollowAResize) {
  for_each_form(40, [](const Form& form, uint64_t seed) {
    Rig rig(form.create, seed);
    auto image = rig.open();
    rig.act(*image, 12);
    rig.run(image->close());
    image = rig.open();
    rig.content_.resize(rig.content_.size() + (1 + rig.random_() % 9000) * kSectorBytes);
    rig.run(image->resize(rig.content_.size()));
    rig.act(*image, 6);
    rig.run(image->close());
    rig.expect_sound();
  });
}

// What a crash at any moment of a session leaves.
class CrashedSession {
 public:
  CrashedSession(Rig& rig) : rig_(rig), models_before_(rig.models_), content_before_(rig.content_) {}

  void run() {
    auto inner = std::make_unique<storage::MemoryDevice>(0, "image.qcow2");
    inner->content() = rig_.file_.content();
    rig_.run(inner->resize(inner->content().size()));
    inner->mutable_limits().growable = true;
    layer::RecordDevice disk(std::move(inner), rig_.file_.content());
    auto image = rig_.open(std::make_unique<Borrowed>(disk), rig_.data_);
    act(*image);
    rig_.run(image->close());
    image.reset();
    const uint64_t end = disk.moments();
    for (uint64_t moment = 0; moment <= end && !testing::Test::HasFailure();
         moment += 1 + rig_.random_() % (1 + end / 40)) {
      SCOPED_TRACE(testing::Message() << "moment " << moment << " of " << end);
      examine(*disk.replay(moment, rig_.random_), moment == end);
    }
    const auto last = disk.replay(end, rig_.random_);
    examine(*last, /*complete=*/true);
  }

 private:
  // Anything; actions on what is stored, alone; or one of them before the first write.
  void act(Image& image) {
    const uint64_t kind = rig_.random_() % 3;
    if (kind == 0) return rig_.act(image, 1 + static_cast<int>(rig_.random_() % 8));
    for (uint64_t i = kind == 1 ? 1 + rig_.random_() % 4 : 1; i > 0; --i) rig_.change_bitmaps(image);
    if (kind == 2) rig_.write(image);
  }

  void examine(storage::MemoryDevice& left, bool complete) {
    const bool dirty =
        (decode_header(left.content(), left.content().size(), "image").incompatible_features & kDirty) != 0;
    const CheckResult result = rig_.check(std::make_unique<Borrowed>(left));
    if (!dirty) EXPECT_EQ(result.corruptions + result.check_errors, 0u) << rig_.finding_;
    auto image = rig_.open(std::make_unique<Borrowed>(left), rig_.data_, {.read_only = true});
    const Models found = rig_.read(*image);
    if (complete) EXPECT_EQ(found, rig_.models_);
    for (const auto& [name, model] : found) {
      const auto old = models_before_.find(name);
      const auto now = rig_.models_.find(name);
      const bool is_new = now != rig_.models_.end() && now->second == model;
      const bool is_old = old != models_before_.end() && old->second == model;
      EXPECT_TRUE(is_old || is_new) << name;
      // The data file of a model is not rolled back.
      if (is_new || !model.enabled || rig_.create_.data_file) continue;
      std::vector<std::byte> content(content_before_.size());
      rig_.run(image->read(0, content));
      EXPECT_TRUE(content == content_before_) << name << " says nothing of a change of the disk";
    }
  }

  Rig& rig_;
  const Models models_before_;
  const std::vector<std::byte> content_before_;
};

TEST(Bitmaps, ACrashLeavesThemRightOrInUse) {
  for_each_form(240, [](const Form& form, uint64_t seed) {
    if (form.create.data_file) return;  // whose power would have to fail with the image's
    Rig rig(form.create, seed);
    auto image = rig.open();
    rig.act(*image, 20);
    rig.run(image->close());
    CrashedSession(rig).run();
  });
}

TEST(Bitmaps, AnErrorLeavesThemRightOrInUse) {
  for_each_form(150, [](const Form& form, uint64_t seed) {
    Rig rig(form.create, seed);
    auto image = rig.open();
    rig.act(*image, 12);
    rig.run(image->close());
    const Models before = rig.models_;
    auto failing = std::make_unique<layer::FaultDevice>(std::make_unique<Borrowed>(rig.file_), seed);
    layer::FaultDevice& faults = *failing;
    image = rig.open(std::move(failing), rig.data_);
    rig.act(*image, 4);
    faults.fail_once(rig.random_() % 12, layer::RequestKinds::changes() | layer::RequestKind::kFlush);
    bool failed = false;
    try {
      rig.run(image->close());
    } catch (const Error&) {
      failed = true;
    }
    EXPECT_EQ(failed, faults.failures() != 0);
    image.reset();
    const CheckResult result = rig.check(std::make_unique<Borrowed>(rig.file_), /*repair=*/true);
    EXPECT_EQ(result.corruptions + result.leaks + result.check_errors, 0u) << rig.finding_;
    image = rig.open(std::make_unique<Borrowed>(rig.file_), rig.data_, {.read_only = true});
    for (const auto& [name, model] : rig.read(*image)) {
      const auto old = before.find(name);
      const bool is_old = old != before.end() && old->second == model;
      const auto made = rig.models_.find(name);
      const bool is_new = made != rig.models_.end() && made->second == model;
      EXPECT_TRUE(is_old || is_new) << name;
    }
  });
}

// ---- single cases ----

CreateOptions small() {
  CreateOptions create;
  create.size_bytes = kMiB;
  return create;
}

std::byte* first_entry(Rig& rig) {
  std::vector<std::byte>& content = rig.file_.content();
  return content.data() + decode_header(content, content.size(), "image").bitmaps->directory_offset;
}

void with_one_bitmap(Rig& rig) {
  auto image = rig.open();
  rig.run(add_bitmap(*image, "a", 4096));
  rig.run(image->write(0, std::vector<std::byte>(4096, std::byte{1})));
  rig.run(image->close());
}

TEST(Bitmaps, AnUncleanEndIsToldAndOnlyRemovalHelps) {
  Rig rig(small(), 1);
  with_one_bitmap(rig);
  auto image = rig.open();
  rig.run(image->write(8192, std::vector<std::byte>(4096, std::byte{2})));
  rig.run(image->flush());
  image.reset();
  image = rig.open();
  EXPECT_TRUE(bitmaps_of(*image).at(0).in_use());
  for (int i = 0; i < 5; ++i)
    expect_error(ErrorKind::kInvalidArgument, i < 4 ? "is inconsistent and cannot be used" : "inconsistent",
                 [&] {
                   if (i == 0) rig.run(clear_bitmap(*image, "a"));
                   if (i == 1) rig.run(enable_bitmap(*image, "a", true));
                   if (i == 2) rig.run(merge_bitmap(*image, "a", "a"));
                   if (i == 3) rig.run(read_bitmap(*image, "a"));
                   if (i == 4) rig.run(image->resize(2 * kMiB));
                 });
  rig.run(image->write(0, std::vector<std::byte>(4096, std::byte{3})));
  rig.run(image->close());
  image = rig.open();
  EXPECT_TRUE(bitmaps_of(*image).at(0).in_use());
  rig.run(remove_bitmap(*image, "a"));
  rig.run(image->close());
  rig.expect_sound();
}

TEST(Bitmaps, AKindThatIsNotKnownIsKeptAsItIs) {
  for (const bool enabled : {true, false}) {
    Rig rig(small(), 1);
    with_one_bitmap(rig);
    store_be(first_entry(rig) + kBitmapFlagsAt, uint32_t{enabled ? 0x102u : 0x100u});
    const std::vector<std::byte> entry(first_entry(rig), first_entry(rig) + 32);
    auto image = rig.open();
    if (enabled) {
      expect_error(ErrorKind::kUnsupported, "cannot be written to",
                   [&] { rig.run(image->write(0, std::vector<std::byte>(512))); });
    } else {
      rig.run(image->write(0, std::vector<std::byte>(512, std::byte{9})));
    }
    expect_error(ErrorKind::kUnsupported, "not known here", [&] { rig.run(clear_bitmap(*image, "a")); });
    rig.run(add_bitmap(*image, "b", std::nullopt));
    rig.run(image->close());
    EXPECT_TRUE(std::equal(entry.begin(), entry.end(), first_entry(rig)));
    image = rig.open();
    EXPECT_EQ(bitmaps_of(*image).size(), 2u);
    rig.run(remove_bitmap(*image, "a"));
    rig.run(image->write(0, std::vector<std::byte>(512, std::byte{9})));
    rig.run(image->close());
    EXPECT_EQ(rig.check(std::make_unique<Borrowed>(rig.file_)).corruptions, 0u);
  }
}

TEST(Bitmaps, ATableThatNamesOtherMetadataIsNotFollowed) {
  for (int damage = 0; damage < 5; ++damage) {
    SCOPED_TRACE(damage);
    Rig rig(small(), 1);
    with_one_bitmap(rig);
    const Header header = decode_header(rig.file_.content(), rig.file_.content().size(), "image");
    std::byte* const entry = first_entry(rig);
    std::byte* const table = rig.file_.content().data() + load_be<uint64_t>(entry);
    if (damage == 0) store_be(table, header.l1_table_offset);
    if (damage == 1) store_be(table, uint64_t{1} << 50);
    if (damage == 2) store_be(table, load_be<uint64_t>(table) | 1);
    if (damage == 3) store_be(entry, header.refcount_table_offset);
    if (damage == 4) store_be(entry + 8, uint32_t{2});  // entries
    auto image = rig.open();
    EXPECT_FALSE(bitmaps_of(*image).at(0).in_use());
    rig.run(image->write(0, std::vector<std::byte>(4096, std::byte{4})));
    rig.run(image->close());
    image = rig.open();
    EXPECT_TRUE(bitmaps_of(*image).at(0).in_use());
    rig.run(remove_bitmap(*image, "a"));
    rig.run(image->close());
    const CheckResult result = rig.check(std::make_unique<Borrowed>(rig.file_), /*repair=*/true);
    EXPECT_EQ(result.corruptions + result.leaks, 0u) << rig.finding_;
    rig.expect_sound();
  }
}

// However many entries the directory claims for it, in a file that is long enough to have them.
TEST(Bitmaps, ATableLongerThanItsBitmapIsNotRead) {
  Rig rig(small(), 1);
  with_one_bitmap(rig);
  const uint64_t whole = rig.file_.content().size();
  const uint64_t table = load_be<uint64_t>(first_entry(rig));
  rig.run(rig.file_.resize(whole + kMiB));
  store_be(first_entry(rig) + 8, static_cast<uint32_t>((whole + kMiB - table) / 8));  // entries
  for (const bool read_only : {true, false}) {
    auto failing = std::make_unique<layer::FaultDevice>(std::make_unique<Borrowed>(rig.file_));
    layer::FaultDevice& faults = *failing;
    faults.add({.kinds = layer::RequestKind::kRead, .begin = whole});
    auto image = rig.open(std::move(failing), rig.data_, {.read_only = read_only});
    expect_error(ErrorKind::kCorrupt, "its table has", [&] { rig.run(read_bitmap(*image, "a")); });
    expect_error(ErrorKind::kCorrupt, "its table has", [&] { rig.run(live_bitmap(*image, "a")); });
    EXPECT_EQ(faults.failures(), 0u);
  }
}

TEST(Bitmaps, GuestDataDoesNotGoOntoThem) {
  Rig rig(small(), 1);
  with_one_bitmap(rig);
  const uint64_t table = load_be<uint64_t>(first_entry(rig));
  const Header header = decode_header(rig.file_.content(), rig.file_.content().size(), "image");
  const uint64_t l2 = load_be<uint64_t>(rig.file_.content().data() + header.l1_table_offset) & kOffsetMask;
  store_be(rig.file_.content().data() + l2, table | kCopiedFlag);
  auto image = rig.open();
  expect_error(ErrorKind::kCorrupt, "metadata",
               [&] { rig.run(image->write(0, std::vector<std::byte>(512))); });
}

TEST(Bitmaps, ADamagedDirectoryStopsChangesOnly) {
  Rig rig(small(), 1);
  with_one_bitmap(rig);
  store_be(first_entry(rig) + 18, uint16_t{60000});
  auto image = rig.open();
  std::vector<std::byte> sector(512);
  rig.run(image->read(0, sector));
  EXPECT_EQ(sector[0], std::byte{1});
  expect_error(ErrorKind::kCorrupt, "directory", [&] { bitmaps_of(*image); });
  expect_error(ErrorKind::kCorrupt, "directory", [&] { rig.run(add_bitmap(*image, "b", std::nullopt)); });
  expect_error(ErrorKind::kCorrupt, "directory", [&] { rig.run(image->write(0, sector)); });
}

TEST(Bitmaps, WhatCannotBeIsRefused) {
  Rig rig(small(), 1);
  auto image = rig.open();
  const auto add = [&](const std::string& name, std::optional<uint64_t> granularity = std::nullopt) {
    rig.run(add_bitmap(*image, name, granularity));
  };
  expect_error(ErrorKind::kInvalidArgument, "cannot be empty", [&] { add(""); });
  expect_error(ErrorKind::kInvalidArgument, "exceeds maximum", [&] { add(std::string(1024, 'x')); });
  for (const uint64_t granularity : {uint64_t{0}, uint64_t{256}, uint64_t{5000}, uint64_t{1} << 32})
    expect_error(ErrorKind::kInvalidArgument, "power of 2", [&] { add("x", granularity); });
  add("x");
  expect_error(ErrorKind::kExists, "already exists", [&] { add("x"); });
  expect_error(ErrorKind::kNotFound, "'y' not found", [&] { rig.run(remove_bitmap(*image, "y")); });
  rig.run(image->close());
  image = rig.open(std::make_unique<Borrowed>(rig.file_), rig.data_, {.read_only = true});
  expect_error(ErrorKind::kReadOnly, "read-only", [&] { rig.run(clear_bitmap(*image, "x")); });

  CreateOptions old = small();
  old.version = 2;
  Rig version2(old, 1);
  image = version2.open();
  expect_error(ErrorKind::kUnsupported, "v2", [&] { version2.run(add_bitmap(*image, "x", std::nullopt)); });
  CreateOptions huge = small();
  huge.size_bytes = uint64_t{1} << 50;
  Rig petabyte(huge, 1);
  image = petabyte.open();
  expect_error(ErrorKind::kLimit, "larger granularity",
               [&] { petabyte.run(add_bitmap(*image, "x", 65536)); });
}

// ---- qemu-img ----

TEST(Bitmaps, TheSizesAreThoseThatQemuImgMeasures) {
  const luks::ScratchFolder folder;
  const std::string path = folder.path("image.qcow2");
  for (const char* size : {"1M", "77M", "8T"}) {
    luks::expect_success({"qemu-img", "create", "-q", "-f", "qcow2", path, size});
    luks::expect_success({"qemu-img", "bitmap", "--add", "-g", "32k", path, "first"});
    luks::expect_success({"qemu-img", "bitmap", "--add", "-g", "2M", path, std::string(1000, 'x')});
    std::vector<BitmapEntry> entries = {{.granularity_bits = 15, .name = "first"},
                                        {.granularity_bits = 21, .name = std::string(1000, 'x')}};
    const uint64_t disk = std::string_view(size) == "1M"    ? kMiB
                          : std::string_view(size) == "77M" ? 77 * kMiB
                                                            : 8 * kTiB;
    for (const uint32_t cluster : {512u, 65536u, 2u << 20}) {
      if (cluster == 512 && disk > kTiB) continue;
      const std::string said = luks::expect_success(
          {"qemu-img", "measure", "-O", "qcow2", "-o", "cluster_size=" + std::to_string(cluster), path});
      const std::string expected =
          "bitmaps size: " + std::to_string(bitmaps_image_bytes(entries, disk, cluster)) + "\n";
      EXPECT_NE(said.find(expected), std::string::npos) << expected << said;
    }
  }
}

}  // namespace
}  // namespace cofre::qcow2
