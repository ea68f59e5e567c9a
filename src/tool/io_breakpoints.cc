// The commands of `cofre io` for the breakpoints of a blkdebug below the image.
#include <fmt/format.h>

#include <cstring>

#include "image/blkdebug_options.h"
#include "io/reactor.h"
#include "tool/interrupt.h"
#include "tool/io_commands.h"

namespace cofre::tool {
namespace {

constexpr uint64_t kGlanceNs = 1'000'000;

void announce(std::string_view tag, bool suspended) {
  fmt::print("blkdebug: {} request '{}'\n", suspended ? "Suspended" : "Resuming", tag);
}

[[noreturn]] void cannot(std::string_view what, int errno_value) {
  throw BadCommand(fmt::format("Could not {}: {}", what, std::strerror(errno_value)));
}

layer::Breakpoints& breakpoints_of(IoContext& context, std::string_view what) {
  layer::Breakpoints* const breakpoints = context.image->breakpoints();
  if (breakpoints == nullptr) cannot(what, ENOTSUP);
  return *breakpoints;
}

}  // namespace

io::task<bool> run_break(IoContext& context, CommandWords words) {
  layer::Breakpoints& breakpoints = breakpoints_of(context, "set breakpoint");
  const std::string& event = words.arguments().at(0);
  if (!image::is_blkdebug_event(event)) cannot("set breakpoint", ENOENT);
  breakpoints.set_listener(announce);
  breakpoints.set_break(image::blkdebug_event(event), words.arguments().at(1));
  co_return true;
}

io::task<bool> run_remove_break(IoContext& context, CommandWords words) {
  const std::string& tag = words.arguments().at(0);
  const std::string what = fmt::format("remove breakpoint {}", tag);
  if (!breakpoints_of(context, what).remove_break(tag)) cannot(what, ENOENT);
  co_return true;
}

io::task<bool> run_resume(IoContext& context, CommandWords words) {
  if (!breakpoints_of(context, "resume request").resume(words.arguments().at(0)))
    cannot("resume request", ENOENT);
  co_await io::yield();  // it goes on
  co_return true;
}

// Where nothing can come any more this ends, other than qemu-io.
io::task<bool> run_wait_break(IoContext& context, CommandWords words) {
  const std::string& tag = words.arguments().at(0);
  const std::string what = fmt::format("wait for breakpoint {}", tag);
  const layer::Breakpoints& breakpoints = breakpoints_of(context, what);
  while (!breakpoints.is_suspended(tag)) {
    if (context.in_flight == 0) cannot(what, ENOENT);
    if (interrupted()) co_return false;
    co_await io::sleep_ns(kGlanceNs);
  }
  co_return true;
}

}  // namespace cofre::tool
