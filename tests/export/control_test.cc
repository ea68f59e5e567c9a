// Lines of the control socket.
#include <gtest/gtest.h>

#include "base/error.h"
#include "export/control/request.h"

namespace cofre::control {
namespace {

ErrorKind kind_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    return error.kind();
  }
  ADD_FAILURE() << "nothing was refused";
  return ErrorKind::kIo;
}

TEST(ControlRequest, GivesItsFields) {
  Request request = Request::parse(
      R"({"command":"x","id":7,"a":"text","b":true,"c":12,"d":["p","q"],"e":"one","none":null})");
  EXPECT_EQ(request.command(), "x");
  EXPECT_EQ(request.id(), 7);
  EXPECT_EQ(request.take_text("a"), "text");
  EXPECT_EQ(request.take_bool("b"), true);
  EXPECT_EQ(request.take_number("c"), 12u);
  EXPECT_EQ(request.take_texts("d"), (std::vector<std::string>{"p", "q"}));
  EXPECT_EQ(request.take_texts("e"), std::vector<std::string>{"one"});
  EXPECT_EQ(request.take_text("none"), std::nullopt);
  EXPECT_EQ(request.take_text("absent"), std::nullopt);
  request.finish();
}

TEST(ControlRequest, RefusesWhatIsNone) {
  for (const char* line : {"", "{", "[]", "1", "null", "{}", R"({"command":1})", R"({"command":"x","id":{}})",
                           R"({"command":"x"} {})", "{\"command\":\"\xff\"}"})
    EXPECT_EQ(kind_of([&] { Request::parse(line); }), ErrorKind::kInvalidArgument) << line;
}

TEST(ControlRequest, RefusesFieldsOfAnotherKind) {
  Request request = Request::parse(R"({"command":"x","a":1,"b":"yes","c":-1,"d":[1],"e":{}})");
  EXPECT_EQ(kind_of([&] { request.take_text("a"); }), ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind_of([&] { request.take_bool("b"); }), ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind_of([&] { request.take_number("c"); }), ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind_of([&] { request.take_texts("d"); }), ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind_of([&] { request.take_texts("e"); }), ErrorKind::kInvalidArgument);
  EXPECT_EQ(kind_of([&] { request.text("absent"); }), ErrorKind::kInvalidArgument);
}

TEST(ControlRequest, RefusesFieldsThatNobodyTook) {
  Request request = Request::parse(R"({"command":"x","a":"1"})");
  EXPECT_EQ(kind_of([&] { request.finish(); }), ErrorKind::kInvalidArgument);
}

TEST(ControlAnswer, IsOneLine) {
  EXPECT_EQ(answer_line(Json("i"), Json::object()), "{\"id\":\"i\",\"ok\":true,\"result\":{}}\n");
  const std::string line = error_line({}, Error(ErrorKind::kNotFound, "two\nlines \xff"));
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_EQ(Json::parse(line)["error"]["kind"], "not-found");
}

}  // namespace
}  // namespace cofre::control
