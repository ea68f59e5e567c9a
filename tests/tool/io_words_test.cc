// The commands of `cofre io`, taken apart.
#include "tool/io_words.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace cofre::tool {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

CommandWords words_of(const std::string& line, std::string_view options) {
  return {split_words(line), options};
}

template <typename Exception, typename Function>
std::string message_of(Function function) {
  try {
    function();
  } catch (const Exception& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(SplitWords, TakesWhatIsBetweenBlanks) {
  EXPECT_THAT(split_words(""), IsEmpty());
  EXPECT_THAT(split_words("  \t "), IsEmpty());
  EXPECT_THAT(split_words(" read  0\t512 \r\n"), ElementsAre("read", "0", "512"));
  EXPECT_THAT(split_words("open 'a b'"), ElementsAre("open", "'a", "b'"))
      << "quotes are characters like others";
}

TEST(CommandWords, TakesOptionsFromAnywhere) {
  const CommandWords words = words_of("write -qP7 0 -s file 512 -P 0x1f", "qP:s:");
  EXPECT_THAT(words.arguments(), ElementsAre("0", "512"));
  EXPECT_TRUE(words.has('q'));
  EXPECT_FALSE(words.has('z'));
  EXPECT_EQ(words.value('s'), "file");
  EXPECT_EQ(words.pattern(), std::byte{0x1f}) << "the last one counts";
}

TEST(CommandWords, ListsOfOptionsAddUp) {
  EXPECT_EQ(words_of("open -o a=1,b=2 -oc=3", "o:").joined_values('o'), "a=1,b=2,c=3");
  EXPECT_EQ(words_of("open x", "o:").joined_values('o'), "");
}

TEST(CommandWords, AfterTwoDashesThereAreNoOptions) {
  EXPECT_THAT(words_of("open -- -r", "r").arguments(), ElementsAre("-r"));
  EXPECT_THAT(words_of("open -", "r").arguments(), ElementsAre("-"));
}

TEST(CommandWords, RefusesOptionsAsGetoptDoes) {
  EXPECT_EQ(message_of<BadUsage>([] { words_of("read -z 0 1", "q"); }), "read: invalid option -- 'z'");
  EXPECT_EQ(message_of<BadUsage>([] { words_of("read -: 0 1", "P:"); }), "read: invalid option -- ':'");
  EXPECT_EQ(message_of<BadUsage>([] { words_of("read 0 1 -P", "P:"); }),
            "read: option requires an argument -- 'P'");
}

TEST(CommandWords, APatternIsOneByte) {
  for (const auto& [text, byte] :
       {std::pair{"0", 0}, {"255", 255}, {"0xFF", 255}, {"017", 15}, {"+5", 5}, {"-0", 0}})
    EXPECT_EQ(words_of(std::string("read -P ") + text, "P:").pattern(), static_cast<std::byte>(byte)) << text;
  for (const std::string text : {"256", "-1", "5x", "08", "0x", "1e1", "x", "99999999999999999999"})
    EXPECT_EQ(message_of<BadCommand>([&] { words_of("read -P " + text, "P:").pattern(); }),
              text + " is not a valid pattern byte");
}

TEST(CommandWords, ARangeIsAnOffsetAndALength) {
  const ByteRange range = words_of("read 1.5k 0x200", "").range();
  EXPECT_EQ(range.offset, 1536u);
  EXPECT_EQ(range.length, 512u);
  EXPECT_EQ(message_of<BadCommand>([] { words_of("read 0 3G", "").range(); }),
            "length cannot exceed 2147483136, given 3G");
  EXPECT_EQ(words_of("write 0 3G", "").range(/*bounded=*/false).length, 3221225472u);
  EXPECT_EQ(message_of<BadCommand>([] { words_of("read 0 x", "").range(); }),
            "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- x");
  EXPECT_EQ(message_of<BadCommand>([] { words_of("read 8E 1", "").range(); }),
            "Parsing error: argument too large -- 8E");
  EXPECT_THROW(words_of("read 0 1 2", "").range(), BadUsage);
}

TEST(CommandWords, TheLengthsOfAVectorAddUp) {
  const ByteRange range = words_of("readv 5 1k 0 3", "").vector_range();
  EXPECT_EQ(range.offset, 5u);
  EXPECT_EQ(range.length, 1027u);
  EXPECT_EQ(words_of("readv 0 1G 1023M 1048064", "").vector_range().length, kMaxRequestBytes);
  EXPECT_EQ(message_of<BadCommand>([] { words_of("readv 0 1G 1G", "").vector_range(); }),
            "The total number of bytes exceed the maximum size 2147483136");
  EXPECT_EQ(message_of<BadCommand>([] { words_of("readv 0 2G", "").vector_range(); }),
            "Argument '2G' exceeds maximum size 2147483136");
  EXPECT_THROW(words_of("readv 0", "").vector_range(), BadUsage);
}

TEST(ParseWhole, TakesNumbersOfAllBases) {
  EXPECT_EQ(parse_whole("10"), 10);
  EXPECT_EQ(parse_whole("-010"), -8);
  EXPECT_EQ(parse_whole("0x10"), 16);
  for (const char* text : {"", "x", "1k", "1.5", "9999999999999999999"})
    EXPECT_EQ(parse_whole(text), std::nullopt);
}

}  // namespace
}  // namespace cofre::tool
