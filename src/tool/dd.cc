// cofre dd: copies a part of an image, counted in blocks, into a new image.
#include <fmt/format.h>

#include <algorithm>

#include "base/checked.h"
#include "base/error.h"
#include "image/create.h"
#include "image/size.h"
#include "job/convert.h"
#include "layer/excerpt.h"
#include "tool/command_line.h"
#include "tool/creating.h"
#include "tool/interrupt.h"
#include "tool/new_target.h"
#include "tool/terminal.h"

namespace cofre::tool {
namespace {

struct DdArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::string target_format = "raw";
  std::vector<std::string> operands;
};

struct Operands {
  std::string input;
  std::string output;
  uint64_t block_bytes = 512;
  uint64_t skip = 0;
  std::optional<uint64_t> count;
};

void declare(CommandLine& line, DdArguments& into) {
  into.source.add_to(line);
  line.value("-O", into.target_format, "FMT", "Format of the new image: raw (default), qcow2 or luks");
  into.secrets.add_to(line);
  line.arguments(into.operands, "OPERAND",
                 "if=FILE: the source; of=FILE: the new image; bs=BYTES: of a block (512); count=N: copy so "
                 "many blocks; skip=N: start behind so many blocks of the source");
}

Operands parse_operands(const CommandLine& line, const std::vector<std::string>& list) {
  constexpr uint64_t kMostBlockBytes = INT32_MAX;
  Operands operands;
  for (const std::string& text : list) {
    const size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : text.substr(equals + 1);
    if (equals == std::string::npos) line.fail_usage(fmt::format("unrecognized operand {}", text));
    if (name == "if") {
      operands.input = value;
    } else if (name == "of") {
      operands.output = value;
    } else if (name == "bs") {
      operands.block_bytes = image::parse_size(value, "bs");
    } else if (name == "count") {
      operands.count = image::parse_size(value, "count");
    } else if (name == "skip") {
      operands.skip = image::parse_size(value, "skip");
    } else {
      line.fail_usage(fmt::format("unrecognized operand {}", name));
    }
  }
  if (operands.input.empty() || operands.output.empty())
    line.fail_usage("Must specify both input and output files: if=FILE of=FILE");
  if (operands.block_bytes == 0 || operands.block_bytes > kMostBlockBytes)
    fail(ErrorKind::kInvalidArgument, "Invalid bs specified. Must be between 1 and {}.", kMostBlockBytes);
  return operands;
}

struct Part {
  uint64_t begin = 0;
  uint64_t length = 0;
  bool beyond = false;  // `skip` leads past the end of what there is to copy
};

// qemu-img counts from the source's start: what is skipped is part of `count`. dd(1), and so `cofre dd`,
// counts what is copied.
Part part_of(const Operands& operands, uint64_t source_bytes, bool count_from_start) {
  const auto bytes_of = [&](uint64_t blocks) {
    return checked_mul<uint64_t>(blocks, operands.block_bytes).value_or(UINT64_MAX);
  };
  const uint64_t skipped = bytes_of(operands.skip);
  const uint64_t counted = bytes_of(operands.count.value_or(UINT64_MAX));
  const uint64_t end =
      std::min(source_bytes, count_from_start ? counted : checked_add(skipped, counted).value_or(UINT64_MAX));
  const uint64_t begin = std::min(skipped, end);
  return {.begin = begin, .length = end - begin, .beyond = skipped > end};
}

struct Run {
  const Session& session;
  const DdArguments& given;
  const Operands& operands;
  image::Secrets& secrets;
  io::Lanes& lanes;
};

io::task<void> copy(const Run& run, block::Device& part, image::CreateRequest request) {
  const image::CreatePlan plan = co_await image::plan_image(std::move(request));
  refuse_header_alone(plan);
  image::TargetFile file(plan.path, plan.elsewhere);
  const RemoveOnSignal guard(file.temporary_path());
  ProgressDisplay progress(ProgressDisplay::choose(run.session.is_cofre(), false, false));
  job::ConvertOptions options;
  options.target_reads_zero = new_target_reads_zero(plan, file);
  options.progress.report = [&progress](uint64_t done, uint64_t total) { progress.show(done, total); };
  options.progress.cancelled = interrupted;
  const image::NewVolume volume = co_await image::create_image(plan, file, run.secrets, {});
  try {
    image::OpenedImage target = co_await image::open_image(image::name_of_new_image(plan, file),
                                                           {.writable = true,
                                                            .exclusive = true,
                                                            .secrets = &run.secrets,
                                                            .label = plan.path,
                                                            .volume = volume ? &*volume : nullptr});
    const HeedingSignals heeding;
    co_await job::convert(run.lanes, {&part}, *target.device, std::move(options));
    co_await target.close();
  } catch (const Error& error) {
    throw file.renamed(error);
  }
  progress.finish();
  file.commit(/*durable=*/true);
}

io::task<void> dd(const Run& run) {
  image::OpenedImage source =
      co_await image::open_image(run.given.source.name(run.operands.input),
                                 {.force_share = run.given.source.force_share, .secrets = &run.secrets});
  refuse_source_as_target(source, run.operands.output);
  const uint64_t bytes = source.device->length_bytes();
  const Part part = part_of(run.operands, bytes, /*count_from_start=*/!run.session.is_cofre());
  if (part.beyond)
    tell(fmt::format("{}: {}: cannot skip to specified offset\n", run.session.program, run.operands.input));
  const std::unique_ptr<block::Device> excerpt = layer::make_excerpt(*source.device, part.begin, part.length);
  co_await copy(run, *excerpt,
                {.path = run.operands.output,
                 .format = image::parse_format(run.given.target_format),
                 .options = {},
                 .size_bytes = part.length,
                 .backing_file = std::nullopt,
                 .backing_format = std::nullopt});
  co_await source.close();
}

}  // namespace

int run_dd(const Session& session, const std::vector<std::string>& arguments) {
  DdArguments given;
  CommandLine line(session, "dd", "[-f FMT] [-O FMT] [-U] [bs=BYTES] [count=N] [skip=N] if=FILE of=FILE",
                   "Copies a part of a disk image into a new image. Zeros are not stored.");
  declare(line, given);
  line.parse(arguments);
  const Operands operands = parse_operands(line, given.operands);
  image::parse_format(given.target_format);
  image::Secrets secrets = given.secrets.secrets();
  io::Lanes lanes;
  lanes.run(dd({session, given, operands, secrets, lanes}));
  return 0;
}

}  // namespace cofre::tool
