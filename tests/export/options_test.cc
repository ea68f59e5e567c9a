// The data of options: whole, cut off anywhere, with lengths that lie.
#include "export/nbd/options.h"

#include <gtest/gtest.h>

namespace cofre::nbd {
namespace {

class Data {
 public:
  Data& u16(uint16_t value) { return append(value); }
  Data& u32(uint32_t value) { return append(value); }
  Data& text(const std::string& text) {
    const ConstBytes bytes = std::as_bytes(std::span(text));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  const std::vector<std::byte>& bytes() const noexcept { return bytes_; }

 private:
  template <typename T>
  Data& append(T value) {
    bytes_.resize(bytes_.size() + sizeof value);
    store_be(bytes_.data() + bytes_.size() - sizeof value, value);
    return *this;
  }
  std::vector<std::byte> bytes_;
};

TEST(InfoQuery, IsTakenApart) {
  const auto query = parse_info_query(Data().u32(4).text("disk").u16(2).u16(3).u16(77).bytes());
  ASSERT_TRUE(query);
  EXPECT_EQ(query->name, "disk");
  EXPECT_TRUE(query->wants(Info::kBlockSize));
  EXPECT_FALSE(query->wants(Info::kName));
}

TEST(MetaQuery, IsTakenApart) {
  const Data data = Data().u32(1).text("a").u32(2).u32(5).text("base:").u32(15).text("base:allocation");
  const auto query = parse_meta_query(data.bytes());
  ASSERT_TRUE(query);
  EXPECT_EQ(query->queries.size(), 2u);
  EXPECT_TRUE(query->wants("base:allocation", /*listing=*/false));
  EXPECT_FALSE(query->wants("base:other", /*listing=*/false));
  EXPECT_TRUE(query->wants("base:other", /*listing=*/true));
  EXPECT_FALSE(query->wants("qemu:allocation-depth", /*listing=*/true));
}

TEST(MetaQuery, WithoutQueriesListsAllAndSelectsNone) {
  const auto query = parse_meta_query(Data().u32(0).u32(0).bytes());
  ASSERT_TRUE(query);
  EXPECT_TRUE(query->wants("anything:at-all", /*listing=*/true));
  EXPECT_FALSE(query->wants("anything:at-all", /*listing=*/false));
}

TEST(Options, CutOffAnywhereAreNone) {
  const std::vector<std::byte> info = Data().u32(4).text("disk").u16(2).u16(3).u16(77).bytes();
  for (size_t length = 0; length < info.size(); ++length)
    EXPECT_FALSE(parse_info_query(std::span(info).first(length))) << length;
  const std::vector<std::byte> meta = Data().u32(1).text("a").u32(1).u32(5).text("base:").bytes();
  for (size_t length = 0; length < meta.size(); ++length)
    EXPECT_FALSE(parse_meta_query(std::span(meta).first(length))) << length;
}

TEST(Options, WithLengthsThatLieAreNone) {
  EXPECT_FALSE(parse_info_query(Data().u32(5).text("disk").u16(0).bytes()));
  EXPECT_FALSE(parse_info_query(Data().u32(UINT32_MAX).text("disk").u16(0).bytes()));
  EXPECT_FALSE(parse_info_query(Data().u32(4).text("disk").u16(1).bytes()));
  EXPECT_FALSE(parse_info_query(Data().u32(4).text("disk").u16(0).u16(0).bytes()));
  EXPECT_FALSE(parse_meta_query(Data().u32(0).u32(UINT32_MAX).bytes()));
  EXPECT_FALSE(parse_meta_query(Data().u32(0).u32(1).u32(UINT32_MAX).bytes()));
  EXPECT_FALSE(parse_meta_query(Data().u32(0).u32(0).u32(0).bytes()));
}

TEST(Options, StringsHaveALimitAndNoNul) {
  EXPECT_TRUE(parse_export_name(Data().text(std::string(kMaxStringBytes, 'x')).bytes()));
  EXPECT_FALSE(parse_export_name(Data().text(std::string(kMaxStringBytes + 1, 'x')).bytes()));
  EXPECT_FALSE(parse_export_name(Data().text(std::string("a\0b", 3)).bytes()));
  EXPECT_FALSE(parse_info_query(Data().u32(3).text(std::string("a\0b", 3)).u16(0).bytes()));
}

}  // namespace
}  // namespace cofre::nbd
