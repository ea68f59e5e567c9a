// cofre io, the personality qemu-io: reads and writes parts of an image, command by command.
#include <fmt/format.h>

#include <exception>

#include "base/error.h"
#include "io/lanes.h"
#include "tool/command_line.h"
#include "tool/interrupt.h"
#include "tool/io_commands.h"
#include "tool/io_input.h"
#include "tool/version.h"

namespace cofre::tool {
namespace {

struct IoArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::vector<std::string> commands;
  IoOpenOptions open;
  std::string trace;
  bool no_cache = false;
  bool native_aio = false;
  bool misalign = false;
  bool version = false;
  std::vector<std::string> names;
};

void declare(CommandLine& line, IoArguments& into) {
  line.values("-c,--cmd", into.commands, "COMMAND",
              "A command to carry out; without any they are read from standard input. -c help lists them");
  into.source.add_to(line);
  line.flag("-r,--read-only", into.open.read_only, "Open the image for reading only");
  line.flag("-s,--snapshot", into.open.snapshot,
            "Writes go into memory and are lost in the end; the image stays as it is");
  line.flag("-n,--nocache", into.no_cache, "As -t none");
  line.flag("-C,--copy-on-read", into.open.copy_on_read,
            "What is read from the backing file is kept in the image");
  line.value("-t,--cache", into.open.cache, "CACHE",
             "Cache mode: none, writeback (default), writethrough, directsync, unsafe");
  line.value("-d,--discard", into.open.discard, "MODE",
             "What discard does: unmap (default; also on), or ignore (off)");
  line.flag("-k,--native-aio", into.native_aio, "As -i native");
  line.value("-i,--aio", into.open.aio, "MODE",
             "Taken for compatibility: threads, native (which needs -n), io_uring. Has no effect");
  line.flag("-m,--misalign", into.misalign, "Taken for compatibility: has no effect");
  line.value("-T,--trace", into.trace, "EVENTS", "Taken for compatibility: there are no events to trace");
  line.flag("-V,--version", into.version, "Show the version and exit");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image; without one, the command open opens it");
}

// The mode that -i, -k, -t and -n ask for together.
IoOpenOptions open_options(const IoArguments& given) {
  IoOpenOptions options = given.open;
  options.force_share = given.source.force_share;
  if (given.no_cache && options.cache == "writeback") options.cache = "none";
  if (given.native_aio && options.aio.empty()) options.aio = "native";
  options.check();
  return options;
}

// Commands from standard input, until its end or `quit`.
io::task<bool> run_interactively(IoContext& context) {
  bool good = true;
  std::vector<std::string> names;
  for (const IoCommand& command : io_commands()) names.emplace_back(command.name);
  const std::unique_ptr<CommandInput> input = make_command_input(
      context.session.is_cofre() ? "cofre io> " : "qemu-io> ", [&context] { return context.in_flight > 0; },
      std::move(names));
  while (!context.quit && !interrupted()) {
    const std::optional<std::string> text = co_await input->next();
    if (!text) break;
    good = co_await run_io_command(context, *text) && good;
  }
  co_return good;
}

io::task<bool> run_commands(IoContext& context, const std::vector<std::string>& commands) {
  bool good = true;
  for (const std::string& command : commands) {
    if (context.quit || interrupted()) break;
    good = co_await run_io_command(context, command) && good;
    std::fflush(stdout);
  }
  co_return good;
}

io::task<bool> open_and_run(IoContext& context, const IoArguments& given, IoOpenOptions options) {
  if (!given.names.empty() &&
      !co_await open_io_image(context, given.source.name(given.names[0]), std::move(options)))
    co_return false;
  const HeedingSignals heeding;  // between commands; the image is closed then
  co_return given.commands.empty() ? co_await run_interactively(context)
                                   : co_await run_commands(context, given.commands);
}

io::task<int> exercise(const Session& session, const IoArguments& given, image::Secrets& secrets) {
  IoOpenOptions options = open_options(given);
  IoContext context{.session = session, .secrets = secrets, .image_opts = given.source.image_opts};
  bool good = false;
  std::exception_ptr failure;
  try {
    good = co_await open_and_run(context, given, std::move(options));
  } catch (...) {
    failure = std::current_exception();
  }
  co_await close_io_image(context);
  if (failure) std::rethrow_exception(failure);
  if (interrupted()) co_return interrupted_exit_status();
  co_return good ? 0 : 1;
}

}  // namespace

int run_io(const Session& session, const std::vector<std::string>& arguments) {
  IoArguments given;
  CommandLine line(
      session, session.is_cofre() ? "io" : "", "[-f FMT] [-r] [-c COMMAND]... [FILE]",
      "Reads and writes parts of a disk image, for scripts and tests. Exit status: 0 if all commands did "
      "what they should.");
  declare(line, given);
  line.parse(arguments);
  if (given.version) {
    fmt::print("{} version {} (cofre {})\n", session.program, kQemuVersion, kVersion);
    return 0;
  }
  if (given.names.size() > 1) line.fail_usage("expecting one image file name");
  io::Lanes lanes(1);
  image::Secrets secrets = given.secrets.secrets();
  return lanes.run(exercise(session, given, secrets));
}

}  // namespace cofre::tool
