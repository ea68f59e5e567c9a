// Sizes against what qemu-img 7.2 makes of the same text (`create -f raw`, `info`).
#include "image/size.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace cofre::image {
namespace {

TEST(ParseSize, TakesWhatQemuImgTakes) {
  const std::pair<const char*, uint64_t> cases[] = {{"0", 0},
                                                    {"1", 1},
                                                    {"512", 512},
                                                    {"10G", 10737418240},
                                                    {"1.5M", 1572864},
                                                    {"0x1000", 4096},
                                                    {"0x10k", 16384},
                                                    {"64k", 65536},
                                                    {"64K", 65536},
                                                    {"0.3M", 314573},
                                                    {"1b", 1},
                                                    {"1.99999G", 2147472911},
                                                    {"100.5k", 102912},
                                                    {"5.M", 5242880},
                                                    {" 5", 5},
                                                    {"+5", 5},
                                                    {"7E", 8070450532247928832},
                                                    {"2T", 2199023255552},
                                                    {"1P", 1125899906842624},
                                                    {"9223372036854775807", 9223372036854775807}};
  for (const auto& [text, bytes] : cases) EXPECT_EQ(parse_size(text), bytes) << text;
}

TEST(ParseSize, RefusesWhatQemuImgRefuses) {
  for (const char* text : {"", "1e3", "1.2", "5 ", "5x", "-1", ".5M", "k", "0x", "0xg", "1.5.5M", "1kk", "+",
                           "++5", "8E", "9223372036854775808", "99999999999999999999", "16E", "1.9999999E9"})
    EXPECT_THROW(parse_size(text), Error) << "'" << text << "'";
}

TEST(ParseSize, NamesTheTextAndWhatItIsFor) {
  try {
    parse_size("12q", "image size");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find("'12q' is no image size"), std::string::npos) << error.what();
  }
}

TEST(ParseSize, TellsWhatIsTooLargeFromWhatIsNoSize) {
  for (const char* text : {"8E", "9223372036854775808", "99999999999999999999", "16E"}) {
    try {
      parse_size(text);
      FAIL() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kLimit) << text;
    }
  }
}

TEST(FormatSize, PrintsAsQemuImgInfo) {
  const std::pair<uint64_t, const char*> cases[] = {{0, "0 B"},
                                                    {512, "512 B"},
                                                    {1024, "1 KiB"},
                                                    {1536, "1.5 KiB"},
                                                    {10240, "10 KiB"},
                                                    {100352, "98 KiB"},
                                                    {1000448, "977 KiB"},
                                                    {1024000, "0.977 MiB"},
                                                    {1048064, "1 MiB"},
                                                    {1234944, "1.18 MiB"},
                                                    {1022976000, "976 MiB"},
                                                    {1047527424, "999 MiB"},
                                                    {1073217536, "1 GiB"},
                                                    {1072693248, "0.999 GiB"},
                                                    {1099511627776, "1 TiB"},
                                                    {123456789504, "115 GiB"},
                                                    {200704, "196 KiB"},
                                                    {UINT64_MAX, "16 EiB"}};
  for (const auto& [bytes, text] : cases) EXPECT_EQ(format_size(bytes), text) << bytes;
}

TEST(FormatSize, PrintsExactlyAsQemuIo) {
  const std::pair<uint64_t, const char*> cases[] = {
      {0, "0 bytes"},           {100, "100 bytes"},     {65536, "64 KiB"},
      {1000000, "976.562 KiB"}, {1234567, "1.177 MiB"}, {1966080, "1.875 MiB"},
      {1067450368, "1018 MiB"}, {1073741824, "1 GiB"},  {1610612736, "1.500 GiB"}};
  for (const auto& [bytes, text] : cases) EXPECT_EQ(format_size_exact(bytes), text) << bytes;
}

}  // namespace
}  // namespace cofre::image
