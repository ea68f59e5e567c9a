// Internal snapshots beside a model of the disk and of each snapshot, over every shape of image; VM state;
// limits; the snapshot table.
#include <algorithm>

#include "format/qcow2/entries.h"
#include "layout.h"
#include "snapshot_rig.h"

namespace cofre::qcow2 {
namespace {

std::vector<Shape> shapes_with_snapshots() {
  std::vector<Shape> shapes = all_shapes();
  std::erase_if(shapes, [](const Shape& shape) { return shape.create.data_file.has_value(); });
  return shapes;
}

class Snapshots : public testing::TestWithParam<Shape> {};

void take_step(SnapshotRig& rig, bool may_grow) {
  const uint64_t draw = rig.random()() % 8;
  if (draw < 3 || rig.kept().empty()) {
    rig.create_snapshot();
  } else if (draw < 5) {
    rig.apply(rig.random()() % rig.kept().size());
  } else if (draw < 7) {
    rig.remove(rig.random()() % rig.kept().size());
  } else if (may_grow && rig.model().size() < 8 * kMiB) {
    const uint64_t length = rig.model().size() + (rig.random()() % 40 + 1) * 512 * (rig.random()() % 50 + 1);
    rig.run(rig.image().resize(length));
    rig.model().resize(length);
  }
}

// Narrow refcounts refuse (also to apply: there are two users for a while), and then nothing has changed.
void try_step(SnapshotRig& rig, bool may_grow) {
  try {
    take_step(rig, may_grow);
  } catch (const Error& error) {
    ASSERT_EQ(error.kind(), ErrorKind::kLimit) << error.what();
  }
}

TEST_P(Snapshots, RandomSteps) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(seed);
  SnapshotRig rig(GetParam(), seed);
  rig.create();
  for (int generation = 0; generation < rounds(3); ++generation) {
    rig.open();
    for (int i = 0; i < 6; ++i) {
      rig.burst(static_cast<int>(rig.random()() % 6) + 1);
      try_step(rig, GetParam().create.version >= 3);
      if (HasFailure()) return;
      rig.verify();
    }
    rig.close();
    rig.expect_clean();
    rig.verify_snapshots(rig.file());
    if (HasFailure()) return;
  }
  rig.open();
  rig.verify();
  while (!rig.kept().empty()) rig.remove(rig.random()() % rig.kept().size());
  rig.verify();
  rig.close();
  rig.expect_clean();
}

std::string test_name(const testing::TestParamInfo<Shape>& info) {
  std::string name;
  for (const char c : info.param.name) name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name + "_" + std::to_string(info.index);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Snapshots, testing::ValuesIn(shapes_with_snapshots()), test_name);

Shape shape_of(uint32_t cluster_bits, uint64_t size, uint32_t refcount_order = 4) {
  Shape shape{.name = "snapshots", .create = {}};
  shape.create.size_bytes = size;
  shape.create.cluster_bits = cluster_bits;
  shape.create.refcount_order = refcount_order;
  return shape;
}

void fill(SnapshotRig& rig, uint64_t offset, uint64_t length, unsigned char byte) {
  const std::vector<std::byte> bytes(length, std::byte{byte});
  rig.run(rig.image().write(offset, bytes));
  std::ranges::copy(bytes, rig.model().begin() + static_cast<ptrdiff_t>(offset));
}

// The caches are at their smallest, so tables are written in the middle of what is taken back then.
TEST(SnapshotLimits, RefcountsThatCannotTellAnotherReference) {
  for (const uint32_t order : {0u, 1u, 2u}) {
    SnapshotRig rig(shape_of(9, 4 * kMiB, order), test_seed());
    rig.create();
    rig.open();
    fill(rig, 0, kMiB, 1);
    // What shares one host cluster counts more references than other clusters do: the end of the disk fails.
    const std::vector<std::byte> compressible(512, std::byte{7});
    if (order > 0)
      for (uint64_t at = 2 * kMiB; at < 2 * kMiB + 4 * 512; at += 512) {
        rig.run(rig.image().write(at, compressible, {.compressed = true}));
        std::ranges::copy(compressible, rig.model().begin() + static_cast<ptrdiff_t>(at));
      }
    const uint64_t most = max_refcount(order);
    size_t made = 0;
    try {
      for (; made <= most; ++made) rig.create_snapshot();
      ADD_FAILURE() << "more than " << most << " references were told";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kLimit) << error.what();
    }
    EXPECT_LT(made, most);
    EXPECT_EQ(rig.image().snapshots().size(), made);
    fill(rig, 4096, 512, 2);  // the image goes on
    rig.verify();
    rig.close();
    rig.expect_clean();
    rig.verify_snapshots(rig.file());
  }
}

TEST(SnapshotLimits, WhatCannotBeIsRefused) {
  SnapshotRig rig(shape_of(16, kMiB), test_seed());
  rig.create();
  rig.open();
  SnapshotEntry long_name;
  long_name.name = std::string(65536, 'n');
  expect_error(ErrorKind::kLimit, "65535", [&] { rig.run(rig.image().create_snapshot(long_name)); });
  expect_error(ErrorKind::kInvalidArgument, "read-only", [&] { rig.run(rig.image().show_snapshot(0)); });
  rig.close();
  rig.expect_clean();

  Shape with_data_file = shape_of(16, kMiB);
  with_data_file.create.data_file = "data.raw";
  SnapshotRig other(with_data_file, test_seed());
  other.create();
  other.open();
  expect_error(ErrorKind::kUnsupported, "external", [&] { other.run(other.image().create_snapshot({})); });
  other.close();

  Shape version2 = shape_of(16, kMiB);
  version2.create.version = 2;
  SnapshotRig old(version2, test_seed());
  old.create();
  old.open();
  old.create_snapshot();
  Layout layout{old.file().content()};
  layout.put<uint64_t>(layout.snapshot_table() + 48, 2 * kMiB);  // the disk's size in the extra data
  old.close();
  old.open();
  expect_error(ErrorKind::kUnsupported, "version 2", [&] { old.run(old.image().apply_snapshot(0)); });
  old.close();
}

// A damaged L1 table of a snapshot is found before anything changes for it.
TEST(SnapshotLimits, DamagedTables) {
  for (const uint64_t offset : {uint64_t{1}, uint64_t{1} << 40}) {
    SnapshotRig rig(shape_of(16, kMiB), test_seed());
    rig.create();
    rig.open();
    fill(rig, 0, kMiB, 1);
    rig.create_snapshot();
    rig.close();
    Layout layout{rig.file().content()};
    layout.put<uint64_t>(layout.snapshot_table(), offset);
    for (const bool apply : {false, true}) {
      rig.open();
      expect_error(ErrorKind::kCorrupt, "L1 table",
                   [&] { rig.run(apply ? rig.image().apply_snapshot(0) : rig.image().delete_snapshot(0)); });
      rig.verify();
      rig.close();
      layout.put<uint64_t>(72, 0);  // the corrupt bit
    }
    rig.open();
    EXPECT_EQ(rig.image().snapshots().size(), 1u);
    rig.close();
  }
}

// A guest cluster that claims to be a table of a snapshot alone.
TEST(SnapshotLimits, TablesOfSnapshotsAreProtected) {
  SnapshotRig rig(shape_of(16, kMiB), test_seed());
  rig.create();
  rig.open();
  fill(rig, 0, 2 * 65536, 1);
  rig.create_snapshot();
  fill(rig, 0, 65536, 2);
  rig.close();
  Layout layout{rig.file().content()};
  const uint64_t snapshot_l1 = layout.get<uint64_t>(layout.snapshot_table());
  const uint64_t snapshot_l2 = layout.get<uint64_t>(snapshot_l1) & Layout::kMask;
  ASSERT_NE(snapshot_l2, layout.l2());
  layout.put<uint64_t>(layout.l2(), snapshot_l2 | Layout::kCopied);
  rig.open();
  const std::vector<std::byte> bytes(65536, std::byte{3});
  expect_error(ErrorKind::kCorrupt, "metadata", [&] { rig.run(rig.image().write(0, bytes)); });
}

TEST(VmState, IsKeptBySnapshots) {
  for (const bool encrypted : {false, true}) {
    Shape shape = shape_of(12, kMiB + 512);
    shape.backing_bytes = 8 * kMiB;  // what lies behind the disk's end there is nobody's
    if (encrypted) shape.create.encryption = CryptMethod::kAes;
    SnapshotRig rig(shape, test_seed());
    rig.create();
    rig.open();
    rig.model().resize(kMiB + 512);
    Image& image = rig.image();
    const std::vector<std::byte> first(5 * 4096 + 512, std::byte{0x11});
    const std::vector<std::byte> second(512, std::byte{0x22});
    const uint64_t far = 64 * kMiB;
    rig.run(image.save_vmstate(0, first));
    rig.run(image.save_vmstate(far, second));
    std::vector<std::byte> now(first.size() + 4096);
    rig.run(image.load_vmstate(0, now));
    EXPECT_TRUE(std::equal(first.begin(), first.end(), now.begin()));
    EXPECT_TRUE(is_zero(ConstBytes(now).subspan(first.size())));
    SnapshotEntry snapshot = rig.next();
    snapshot.vm_state_bytes = first.size();
    rig.run(image.create_snapshot(snapshot));
    rig.kept().push_back({snapshot.name, rig.model()});
    rig.run(image.load_vmstate(0, now));
    EXPECT_TRUE(is_zero(ConstBytes(now).first(first.size()))) << "went over to the snapshot";
    rig.run(image.save_vmstate(4096 + 512, second));
    rig.verify();

    rig.apply(0);
    rig.run(image.save_vmstate(512, second));  // shares its cluster with the snapshot
    rig.run(image.load_vmstate(0, now));
    EXPECT_TRUE(is_zero(ConstBytes(now).subspan(first.size())));
    for (size_t i = 0; i < first.size(); ++i)
      ASSERT_EQ(now[i], i >= 512 && i < 1024 ? std::byte{0x22} : std::byte{0x11}) << i;
    std::vector<std::byte> there(512);
    rig.run(image.load_vmstate(far, there));
    EXPECT_EQ(there, second);
    rig.run(image.load_vmstate(uint64_t{1} << 62, there));
    EXPECT_TRUE(is_zero(there));
    expect_error(ErrorKind::kLimit, "", [&] { rig.run(image.save_vmstate(uint64_t{1} << 62, second)); });
    rig.close();
    rig.expect_clean();
    rig.open();
    EXPECT_EQ(rig.image().snapshots()[0].vm_state_bytes, first.size());
    // A longer disk does not show it.
    rig.run(rig.image().resize(100 * kMiB));
    rig.model().resize(100 * kMiB);
    rig.verify();
    rig.close();
    rig.expect_clean();
  }
}

TEST(SnapshotTable, KeepsWhatItDoesNotKnow) {
  SnapshotRig rig(shape_of(16, kMiB), test_seed());
  rig.create();
  rig.open();
  SnapshotEntry full;
  full.name = "full";
  full.vm_state_bytes = uint64_t{5} << 32;
  full.date_seconds = 1'700'000'000;
  full.date_nanoseconds = 123'456'789;
  full.vm_clock_ns = 3'600'000'000'001;
  full.icount = 77;
  full.unknown_extra_data = {std::byte{1}, std::byte{2}, std::byte{3}};
  rig.run(rig.image().create_snapshot(full));
  rig.run(rig.image().create_snapshot({}));
  rig.close();
  rig.open();
  const std::vector<SnapshotEntry>& snapshots = rig.image().snapshots();
  ASSERT_EQ(snapshots.size(), 2u);
  EXPECT_EQ(snapshots[0].id, "1");
  EXPECT_EQ(snapshots[0].name, full.name);
  EXPECT_EQ(snapshots[0].vm_state_bytes, full.vm_state_bytes);
  EXPECT_EQ(snapshots[0].disk_bytes, kMiB);
  EXPECT_EQ(snapshots[0].date_seconds, full.date_seconds);
  EXPECT_EQ(snapshots[0].date_nanoseconds, full.date_nanoseconds);
  EXPECT_EQ(snapshots[0].vm_clock_ns, full.vm_clock_ns);
  EXPECT_EQ(snapshots[0].icount, full.icount);
  EXPECT_EQ(snapshots[0].unknown_extra_data, full.unknown_extra_data);
  EXPECT_EQ(snapshots[1].id, "2");
  EXPECT_EQ(snapshots[1].icount, std::nullopt);
  rig.close();
  rig.expect_clean();
}

SnapshotEntry entry_of(std::string id, std::string name) {
  SnapshotEntry entry;
  entry.id = std::move(id);
  entry.name = std::move(name);
  return entry;
}

TEST(SnapshotTable, IdsAndNames) {
  const std::vector<SnapshotEntry> list = {entry_of("3", "a"), entry_of("7", "a"), entry_of("x", "3")};
  EXPECT_EQ(new_snapshot_id(list), "8");
  EXPECT_EQ(new_snapshot_id({}), "1");
  EXPECT_EQ(find_snapshot(list, "a"), 0u);
  EXPECT_EQ(find_snapshot(list, "3"), 0u);
  EXPECT_EQ(find_snapshot(list, "x"), 2u);
  EXPECT_EQ(find_snapshot(list, "nothing"), std::nullopt);
  EXPECT_EQ(find_snapshot(list, SnapshotSelector{.id = "7", .name = "a"}), 1u);
  EXPECT_EQ(find_snapshot(list, SnapshotSelector{.id = "7", .name = "3"}), std::nullopt);
  EXPECT_EQ(find_snapshot(list, SnapshotSelector{.id = std::nullopt, .name = "3"}), 2u);
  EXPECT_EQ(find_snapshot(list, SnapshotSelector{}), std::nullopt);
}

TEST(SnapshotTable, HasItsLimits) {
  expect_error(ErrorKind::kLimit, "65536",
               [] { encode_snapshots(std::vector<SnapshotEntry>(kMaxSnapshots + 1), "image"); });
  const std::vector<SnapshotEntry> wide(1100, entry_of("1", std::string(65000, 'n')));
  expect_error(ErrorKind::kLimit, "64 MiB", [&] { encode_snapshots(wide, "image"); });
}

}  // namespace
}  // namespace cofre::qcow2
