// The bits of a bitmap and the directory's codec, each beside a model.
#include "format/qcow2/dirty_bitmap.h"

#include "base/checked.h"
#include "format/qcow2/bitmap_directory.h"
#include "support.h"

namespace cofre::qcow2 {
namespace {

struct Model {
  uint64_t disk_bytes;
  unsigned granularity_bits;
  std::vector<bool> bits;

  Model(uint64_t disk_bytes_in, unsigned granularity_bits_in)
      : disk_bytes(disk_bytes_in),
        granularity_bits(granularity_bits_in),
        bits(div_ceil<uint64_t>(disk_bytes, uint64_t{1} << granularity_bits)) {}
  bool dirty(uint64_t at) const { return bits[at >> granularity_bits]; }
  void set(uint64_t begin, uint64_t end) {
    for (uint64_t at = begin; at < end; ++at) bits[at >> granularity_bits] = true;
  }
};

void expect_same(const DirtyBitmap& bitmap, const Model& model) {
  for (uint64_t at = 0; at < model.disk_bytes;) {
    ASSERT_EQ(bitmap.next_dirty(at) == at, model.dirty(at)) << "at " << at;
    const uint64_t end = model.dirty(at) ? bitmap.next_clean(at) : bitmap.next_dirty(at);
    ASSERT_GT(end, at);
    ASSERT_LE(end, model.disk_bytes);
    for (uint64_t other = at; other < end; ++other) ASSERT_EQ(model.dirty(other), model.dirty(at));
    at = end;
  }
}

// Saved in pieces as clusters are, and loaded again.
DirtyBitmap stored_and_loaded(const DirtyBitmap& bitmap, uint64_t piece_bytes) {
  DirtyBitmap loaded(bitmap.disk_bytes(), bitmap.granularity_bits());
  std::vector<std::byte> piece(piece_bytes);
  for (uint64_t at = 0; at < bitmap.byte_count(); at += piece_bytes) {
    bitmap.save(at, piece);
    loaded.load(at, piece);
  }
  return loaded;
}

void one_round(std::mt19937_64& random) {
  uint64_t disk = 1 + random() % 70'000;
  const unsigned granularity = static_cast<unsigned>(random() % 9);
  DirtyBitmap bitmap(disk, granularity);
  Model model(disk, granularity);
  for (int i = 0; i < 12; ++i) {
    const uint64_t begin = random() % disk;
    const uint64_t end = std::min(disk, begin + random() % (random() % 2 == 0 ? 100 : 20'000));
    if (random() % 4 == 0) {
      DirtyBitmap other(disk, static_cast<unsigned>(random() % 12));
      other.set(begin, end);
      bitmap.merge(other);
      if (begin < end)
        model.set(align_down<uint64_t>(begin, uint64_t{1} << other.granularity_bits()),
                  std::min(disk, align_up<uint64_t>(end, uint64_t{1} << other.granularity_bits())));
    } else if (random() % 6 == 0) {
      disk = 1 + random() % 70'000;
      bitmap.resize(disk);
      Model resized(disk, granularity);
      for (size_t bit = 0; bit < std::min(model.bits.size(), resized.bits.size()); ++bit)
        resized.bits[bit] = model.bits[bit];
      model = resized;
    } else {
      bitmap.set(begin, end);
      model.set(begin, end);
    }
  }
  expect_same(bitmap, model);
  expect_same(stored_and_loaded(bitmap, 512), model);
  std::vector<std::byte> ones(align_up<uint64_t>(bitmap.byte_count(), 512), std::byte{0xff});
  bitmap.load(0, ones);
  EXPECT_EQ(bitmap.next_clean(0), disk);
  bitmap.save(0, ones);
  if (const uint64_t last = model.bits.size() % 8; last != 0)
    EXPECT_EQ(std::to_integer<unsigned>(ones[bitmap.byte_count() - 1]) >> last, 0u);
  bitmap.clear();
  EXPECT_EQ(bitmap.next_dirty(0), disk);
}

TEST(DirtyBitmap, AgreesWithAModel) {
  const uint64_t seed = test_seed();
  for (int i = 0; i < rounds(300); ++i) {
    SCOPED_TRACE(testing::Message() << "seed " << seed << " round " << i);
    std::mt19937_64 random(seed + static_cast<uint64_t>(i));
    one_round(random);
    if (testing::Test::HasFailure()) return;
  }
}

TEST(BitmapDirectory, KeepsWhatItReads) {
  std::vector<BitmapEntry> entries = {
      {.table_offset = 0x10000, .table_entries = 7, .flags = 3, .granularity_bits = 9, .name = "one"},
      {.flags = 0x104, .type = 9, .name = std::string(1023, 'n'), .extra = {std::byte{1}, std::byte{2}}}};
  std::vector<const BitmapEntry*> pointers;
  for (const BitmapEntry& entry : entries) pointers.push_back(&entry);
  const std::vector<std::byte> bytes = encode_bitmap_directory(pointers);
  const std::vector<BitmapEntry> decoded = decode_bitmap_directory(bytes, 2, "image");
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(decoded[i].table_offset, entries[i].table_offset);
    EXPECT_EQ(decoded[i].table_entries, entries[i].table_entries);
    EXPECT_EQ(decoded[i].flags, entries[i].flags);
    EXPECT_EQ(decoded[i].type, entries[i].type);
    EXPECT_EQ(decoded[i].granularity_bits, entries[i].granularity_bits);
    EXPECT_EQ(decoded[i].name, entries[i].name);
    EXPECT_EQ(decoded[i].extra, entries[i].extra);
  }
  EXPECT_TRUE(decoded[0].understood());
  EXPECT_FALSE(decoded[1].understood());
  for (uint32_t count : {1u, 3u})
    expect_error(ErrorKind::kCorrupt, "directory", [&] { decode_bitmap_directory(bytes, count, "image"); });
}

TEST(BitmapDirectory, RefusesDamage) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  const BitmapEntry entry = {.flags = 2, .name = "name"};
  const std::vector<std::byte> sound = encode_bitmap_directory({&entry, &entry});
  expect_error(ErrorKind::kCorrupt, "two bitmaps", [&] { decode_bitmap_directory(sound, 2, "image"); });
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::byte> bytes(sound.begin(), sound.begin() + static_cast<ptrdiff_t>(random() % 65));
    for (std::byte& byte : bytes)
      if (random() % 16 == 0) byte = static_cast<std::byte>(random());
    try {
      for (const BitmapEntry& found : decode_bitmap_directory(bytes, 1 + random() % 3, "image"))
        EXPECT_LE(found.name.size() + found.extra.size(), bytes.size());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kCorrupt);
    }
  }
}

}  // namespace
}  // namespace cofre::qcow2
