// cofre resize: gives an image another size.
#include "image/resize.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/checked.h"
#include "base/error.h"
#include "image/size.h"
#include "io/lanes.h"
#include "tool/command_line.h"
#include "tool/probed_raw.h"
#include "tool/terminal.h"

namespace cofre::tool {
namespace {

struct ResizeArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::string preallocation = "off";
  bool shrink = false;
  bool quiet = false;
  std::vector<std::string> names;
};

void declare(CommandLine& line, ResizeArguments& into) {
  into.source.add_to(line, true, /*with_force_share=*/false);
  line.flag("--shrink", into.shrink, "Allow a smaller size, which deletes what lies behind the new end");
  line.value("--preallocation", into.preallocation, "MODE",
             "Space that the new part takes at once: off (default), metadata (qcow2 only), falloc, full");
  line.flag("-q,--quiet", into.quiet, "Print nothing but errors");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image, and last its new size: 10G; or the change: +2G, -512M");
}

// "10G", "+2G", "-512M".
struct NewSize {
  enum class Kind { kAbsolute, kGrow, kShrink } kind = Kind::kAbsolute;
  uint64_t bytes = 0;
};

NewSize parse_new_size(const std::string& text) {
  NewSize size;
  std::string_view rest = text;
  if (rest.starts_with('+')) size.kind = NewSize::Kind::kGrow;
  if (rest.starts_with('-')) size.kind = NewSize::Kind::kShrink;
  if (size.kind != NewSize::Kind::kAbsolute) rest.remove_prefix(1);
  size.bytes = image::parse_size(rest, "image size");
  return size;
}

uint64_t new_length(const NewSize& size, uint64_t before) {
  uint64_t length = size.bytes;
  if (size.kind == NewSize::Kind::kGrow)
    length = checked_add(before, size.bytes).value_or(image::kMaxSizeBytes + 1);
  if (size.kind == NewSize::Kind::kShrink) length = before - std::min(before, size.bytes);
  if (length == 0) fail(ErrorKind::kInvalidArgument, "New image size must be positive");
  if (length > image::kMaxSizeBytes)
    fail(ErrorKind::kInvalidArgument, "the new size is too large: the most is {} bytes",
         image::kMaxSizeBytes);
  return length;
}

void check_change(const Session& session, const ResizeArguments& given, uint64_t before, uint64_t length,
                  qcow2::Preallocation mode) {
  if (length <= before && mode != qcow2::Preallocation::kOff)
    fail(ErrorKind::kInvalidArgument, "Preallocation can only be used for growing images");
  if (length >= before || given.shrink) return;
  tell(fmt::format(
      "{}: warning: Shrinking an image will delete all data beyond the shrunken image's end. Make "
      "sure that there is nothing important there: partitions and file systems must be made "
      "smaller first\n",
      session.program));
  fail(ErrorKind::kInvalidArgument,
       "Use the --shrink option to perform a shrink operation, from {} to {} bytes", before, length);
}

io::task<void> resize(const Session& session, const ResizeArguments& given, const NewSize& size,
                      image::Secrets& secrets) {
  const qcow2::Preallocation mode = image::parse_preallocation(given.preallocation);
  image::OpenedImage image = co_await image::open_image(
      given.source.name(given.names[0]), {.writable = true, .exclusive = true, .secrets = &secrets});
  warn_of_probed_raw(image);
  const uint64_t before = image.device->length_bytes();
  const uint64_t length = new_length(size, before);
  check_change(session, given, before, length, mode);
  co_await image::resize_image(image, length, mode);
  co_await image.close();
  if (!given.quiet) fmt::print("Image resized.\n");
}

bool asks_for_help(const std::vector<std::string>& arguments) {
  return std::ranges::any_of(arguments, [](const std::string& a) { return a == "-h" || a == "--help"; });
}

}  // namespace

int run_resize(const Session& session, const std::vector<std::string>& arguments) {
  ResizeArguments given;
  CommandLine line(session, "resize", "[-f FMT] [--shrink] [--preallocation=MODE] [-q] FILE [+|-]SIZE",
                   "Gives a disk image another size. What a shorter one loses is deleted; the new part of a "
                   "longer one reads as zero.");
  declare(line, given);
  // The last argument is the size whatever it looks like: -512M is no option.
  std::vector<std::string> others = arguments;
  std::string size;
  if (!others.empty() && !asks_for_help(others)) {
    size = others.back();
    others.pop_back();
  }
  line.parse(others);
  if (arguments.size() < 2) line.fail_usage("Not enough arguments: expecting image file name and size");
  if (given.names.size() != 1) line.fail_usage("Expecting image file name and size");
  const NewSize parsed = parse_new_size(size);
  image::Secrets secrets = given.secrets.secrets();
  io::Lanes lanes(1);
  lanes.run(resize(session, given, parsed, secrets));
  return 0;
}

}  // namespace cofre::tool
