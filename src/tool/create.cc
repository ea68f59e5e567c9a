// cofre create: an empty image.
#include "image/create.h"

#include <fmt/format.h>

#include "base/error.h"
#include "image/size.h"
#include "io/lanes.h"
#include "tool/command_line.h"
#include "tool/creating.h"
#include "tool/interrupt.h"

namespace cofre::tool {
namespace {

struct CreateArguments {
  std::string format = "raw";
  std::vector<std::string> options;
  std::optional<std::string> backing_file;
  std::optional<std::string> backing_format;
  bool quiet = false;
  bool unchecked = false;
  SecretOptions secrets;
  std::vector<std::string> names;
};

void declare(CommandLine& line, CreateArguments& into) {
  line.value("-f,--format", into.format, "FMT", "Format of the new image: raw (default), qcow2 or luks");
  line.values("-o", into.options, "OPTIONS", "Options of the format: name=value,...; -o help lists them");
  line.value("-b", into.backing_file, "FILE",
             "Backing file: what the new image shows where nothing was written yet");
  line.value("-F", into.backing_format, "FMT", "Format of the backing file; needed with -b");
  line.flag("-u", into.unchecked, "Do not open the backing file; the size must be given then");
  line.flag("-q", into.quiet, "Print nothing but errors");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "Name of the new image, and its size (10G, 512M, bytes ...)");
}

image::CreateRequest make_request(const CommandLine& line, const CreateArguments& given) {
  if (given.names.empty()) line.fail_usage("expecting image file name");
  if (given.names.size() > 2) line.fail_usage(fmt::format("unexpected argument: {}", given.names[2]));
  image::CreateRequest request = {.path = given.names[0],
                                  .format = image::parse_format(given.format),
                                  .options = merge_options(given.options),
                                  .size_bytes = std::nullopt,
                                  .backing_file = given.backing_file,
                                  .backing_format = given.backing_format,
                                  .unchecked_backing = given.unchecked};
  if (given.names.size() == 2) request.size_bytes = image::parse_size(given.names[1], "image size");
  return request;
}

io::task<void> create(const Session& session, image::CreateRequest request, bool quiet,
                      image::Secrets& secrets) {
  const image::CreatePlan plan = co_await image::plan_image(std::move(request));
  if (!quiet) fmt::print("Formatting '{}', {}\n", plan.path, plan.summary);
  note_legacy_encryption(session, plan);
  image::TargetFile target(plan.path, plan.elsewhere);
  const RemoveOnSignal guard(target.temporary_path());
  co_await image::create_image(plan, target, secrets, {});
  target.commit(true);
}

}  // namespace

int run_create(const Session& session, const std::vector<std::string>& arguments) {
  CreateArguments given;
  CommandLine line(session, "create", "[-f FMT] [-b FILE -F FMT] [-o OPTIONS] FILE [SIZE]",
                   "Creates an empty disk image.");
  declare(line, given);
  line.parse(arguments);
  if (print_options_help(given.options, given.format, !given.names.empty())) return 0;
  image::CreateRequest request = make_request(line, given);
  image::Secrets secrets = given.secrets.secrets();
  io::Lanes lanes(1);
  lanes.run(create(session, std::move(request), given.quiet, secrets));
  return 0;
}

}  // namespace cofre::tool
