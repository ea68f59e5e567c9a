// cofre bitmap: changes the persistent dirty bitmaps of a qcow2 image.
#include "format/qcow2/bitmap_actions.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "image/open.h"
#include "image/size.h"
#include "io/lanes.h"
#include "tool/command_line.h"

namespace cofre::tool {
namespace {

struct Action {
  std::string name;
  std::string source = {};  // merge: the other bitmap
};

struct BitmapArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::vector<Action> actions;
  std::optional<std::string> granularity;
  std::optional<std::string> merge_file;
  std::optional<std::string> merge_format;
  std::vector<std::string> names;

  bool has(const std::string& name) const {
    return std::ranges::any_of(actions, [&](const Action& action) { return action.name == name; });
  }
  const std::string& bitmap() const { return names[1]; }
};

void declare(CommandLine& line, BitmapArguments& into) {
  const auto action = [&](const std::string& name, const std::string& text) {
    line.step("--" + name, [&into, name] { into.actions.push_back({name}); }, text);
  };
  action("add", "Make the bitmap, clean and enabled");
  action("remove", "Remove the bitmap, also one that is inconsistent");
  action("clear", "Mark everything clean");
  action("enable", "From now on note every change of the disk");
  action("disable", "From now on note no changes");
  line.step_value(
      "--merge", [&into](const std::string& source) { into.actions.push_back({"merge", source}); }, "SOURCE",
      "Mark all that is dirty in the bitmap SOURCE");
  line.value("-g", into.granularity, "SIZE",
             "Bytes of the disk that one bit of a new bitmap stands for: a power of two, at least 512 "
             "(default: the cluster size, within 4k and 64k)");
  line.value("-b", into.merge_file, "FILE", "The image where --merge finds its bitmaps, if it is another");
  line.value("-F", into.merge_format, "FMT", "Format of that image");
  line.value("-f,--format", into.source.format, "FMT", "Format of the image; bitmaps need qcow2");
  line.flag("--image-opts", into.source.image_opts, "The image is named by options: driver=qcow2,...");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image, and the name of the bitmap");
}

void check_arguments(const CommandLine& line, const BitmapArguments& given) {
  if (given.names.size() != 2) line.fail_usage("Expecting filename and bitmap name");
  if (given.actions.empty())
    line.fail_usage("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge");
  if (given.granularity && !given.has("add")) line.fail_usage("granularity only supported with --add");
  if (given.merge_format && !given.merge_file) line.fail_usage("-F only supported with -b");
  if (given.merge_file && !given.has("merge"))
    line.fail_usage("Merge bitmap source file only supported with --merge");
}

// Metadata only: neither keys nor backing files are needed.
io::task<image::OpenedImage> open(image::ImageName name, bool writable, image::Secrets& secrets) {
  return image::open_image(std::move(name), {.writable = writable,
                                             .no_backing = true,
                                             .exclusive = true,
                                             .keys = image::Keys::kUnused,
                                             .secrets = &secrets});
}

qcow2::Image& qcow2_of(const image::OpenedImage& image) {
  if (image.top().qcow2 == nullptr)
    fail(ErrorKind::kUnsupported, "Can't store persistent bitmaps to '{}': it is {}, not qcow2",
         image.top().path, image::format_name(image.top().format));
  return *image.top().qcow2;
}

io::task<void> merge_from(const BitmapArguments& given, qcow2::Image& image, image::OpenedImage* other,
                          const std::string& source) {
  if (other == nullptr) co_return co_await qcow2::merge_bitmap(image, given.bitmap(), source);
  const qcow2::DirtyBitmap bits = co_await qcow2::read_bitmap(qcow2_of(*other), source);
  co_await qcow2::merge_bitmap(image, given.bitmap(), bits);
}

io::task<void> perform(const BitmapArguments& given, const Action& action, qcow2::Image& image,
                       image::OpenedImage* other) {
  const std::string& bitmap = given.bitmap();
  std::optional<uint64_t> granularity;
  if (given.granularity) granularity = image::parse_size(*given.granularity, "granularity");
  if (granularity == 0) granularity.reset();  // as with qemu-img, the default
  if (action.name == "add") co_await qcow2::add_bitmap(image, bitmap, granularity);
  if (action.name == "remove") co_await qcow2::remove_bitmap(image, bitmap);
  if (action.name == "clear") co_await qcow2::clear_bitmap(image, bitmap);
  if (action.name == "enable") co_await qcow2::enable_bitmap(image, bitmap, true);
  if (action.name == "disable") co_await qcow2::enable_bitmap(image, bitmap, false);
  if (action.name == "merge") co_await merge_from(given, image, other, action.source);
}

// Those before one that fails are kept.
io::task<void> perform_all(const BitmapArguments& given, image::OpenedImage& image,
                           image::OpenedImage* other) {
  for (const Action& action : given.actions) {
    try {
      co_await perform(given, action, qcow2_of(image), other);
    } catch (const Error& error) {
      throw error.with_context(fmt::format("Operation {} on bitmap {} failed", action.name, given.bitmap()));
    }
  }
}

io::task<void> change_bitmaps(const BitmapArguments& given, image::Secrets& secrets) {
  image::OpenedImage image = co_await open(given.source.name(given.names[0]), /*writable=*/true, secrets);
  std::optional<image::OpenedImage> other;
  if (given.merge_file) {
    std::optional<image::Format> format;
    if (given.merge_format) format = image::parse_format(*given.merge_format);
    other = co_await open(image::parse_image_name(*given.merge_file, format), /*writable=*/false, secrets);
  }
  co_await image::close_after(image, perform_all(given, image, other ? &*other : nullptr));
  if (other) co_await other->close();
}

}  // namespace

int run_bitmap(const Session& session, const std::vector<std::string>& arguments) {
  BitmapArguments given;
  CommandLine line(
      session, "bitmap",
      "(--add [-g SIZE] | --remove | --clear | --enable | --disable | --merge SOURCE [-b FILE "
      "[-F FMT]])... [-f FMT] FILE BITMAP",
      "Changes a persistent dirty bitmap of a qcow2 image. Several actions are done in the order "
      "given; `info` lists an image's bitmaps.");
  declare(line, given);
  line.parse(arguments);
  check_arguments(line, given);
  if (given.granularity) image::parse_size(*given.granularity, "granularity");
  image::Secrets secrets = given.secrets.secrets();  // metadata needs none, but other objects
  io::Lanes lanes(1);
  lanes.run(change_bitmaps(given, secrets));
  return 0;
}

}  // namespace cofre::tool
