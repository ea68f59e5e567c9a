#include "image/options.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "scratch.h"

namespace cofre::image {
namespace {

TEST(Options, ListsHaveNamesAndValues) {
  Options options = Options::parse_list("a=b,c.d=e=f,flag,noother,last=");
  EXPECT_EQ(options.take("a"), "b");
  EXPECT_EQ(options.take("c.d"), "e=f");
  EXPECT_EQ(options.take_bool("flag"), true);
  EXPECT_EQ(options.take_bool("other"), false);
  EXPECT_EQ(options.take("last"), "");
  options.finish("the test");
}

TEST(Options, DoubledCommasAreOne) {
  Options options = Options::parse_list("file.filename=a,,b,,,,c,x=,,");
  EXPECT_EQ(options.take("file.filename"), "a,b,,c");
  EXPECT_EQ(options.take("x"), ",");
}

TEST(Options, TheLastOfEqualKeysCounts) {
  Options options = Options::parse_list("a=1,a=2");
  options.merge(Options::parse_list("b=3,a=4"));
  EXPECT_EQ(options.take_number("a"), 4U);
  EXPECT_EQ(options.take_number("b"), 3U);
}

TEST(Options, TheFirstPartMayHaveAnImpliedName) {
  Options options = Options::parse_list("secret,id=s0", "qom-type");
  EXPECT_EQ(options.take("qom-type"), "secret");
  EXPECT_EQ(options.take("id"), "s0");
}

TEST(Options, BadListsAreRefused) {
  EXPECT_THROW(Options::parse_list("=x"), Error);
  EXPECT_THROW(Options::parse_list("a=b,,=c,=d"), Error);
  EXPECT_THROW(Options::parse_list(",a=b"), Error);
}

TEST(Options, JsonBecomesFlat) {
  Options options = Options::parse_json(
      R"({"driver":"qcow2","file":{"driver":"file","filename":"a,b"},"n":7,"yes":true,"none":null,"list":["x","y"]})");
  EXPECT_EQ(options.take("driver"), "qcow2");
  Options file = options.take_prefix("file");
  EXPECT_EQ(file.take("filename"), "a,b");
  EXPECT_EQ(options.take_number("n"), 7U);
  EXPECT_EQ(options.take_bool("yes"), true);
  EXPECT_EQ(options.take("none"), "");
  EXPECT_EQ(options.take("list.0"), "x");
  EXPECT_EQ(options.take("list.1"), "y");
  options.finish("the test");
}

TEST(Options, BadJsonIsRefused) {
  for (const char* text : {"", "{", "[]", "7", "{\"a\":}", "{} x"})
    EXPECT_THROW(Options::parse_json(text), Error) << text;
  std::string deep;
  for (int i = 0; i < 1000; ++i) deep += "{\"a\":";
  EXPECT_THROW(Options::parse_json(deep + "1" + std::string(1000, '}')), Error);
}

TEST(Options, WhatIsLeftIsNamedWithWhatIsKnown) {
  Options options = Options::parse_list("known=1,unknown=2");
  options.take("known");
  options.take("other");
  const std::string message = message_of(ErrorKind::kInvalidArgument, [&] { options.finish("format raw"); });
  EXPECT_EQ(message, "format raw has no option 'unknown'; it has: known, other");
}

TEST(Options, ValuesMustBeOfTheirKind) {
  Options options = Options::parse_list("b=maybe,n=12x,s=1y,hex=0x20");
  EXPECT_THROW(options.take_bool("b"), Error);
  EXPECT_THROW(options.take_number("n"), Error);
  EXPECT_THROW(options.take_size("s"), Error);
  EXPECT_EQ(options.take_number("hex"), 32U);
  EXPECT_EQ(options.take_number("absent"), std::nullopt);
}

TEST(Options, HelpIsAskedForByName) {
  EXPECT_TRUE(asks_for_help("help"));
  EXPECT_TRUE(asks_for_help("?"));
  EXPECT_TRUE(asks_for_help("size=1,help"));
  EXPECT_FALSE(asks_for_help("backing_file=help"));
  EXPECT_FALSE(asks_for_help(""));
}

}  // namespace
}  // namespace cofre::image
