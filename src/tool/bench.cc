// cofre bench: measurements of this machine, each a command of its own behind this one. What names none of
// them is an image and qemu-img's options: requests sent to it.
#include <fmt/format.h>

#include <array>
#include <string_view>

#include "tool/command_line.h"

namespace cofre::tool {
namespace {

struct Subject {
  std::string_view name;
  std::string_view text;
  CommandFunction function;
};

constexpr std::array<Subject, 3> kSubjects = {{
    {"crypto", "the AES kernels beside the limit of the processor, OpenSSL and libgcrypt", run_bench_crypto},
    {"requests", "many equal requests to one image, as qemu-img bench sends them; the word may be left out",
     run_bench_requests},
    {"image", "images of different cluster sizes, plain and encrypted, beside qemu-img", run_bench_image},
}};

std::string names() {
  std::string all;
  for (const Subject& subject : kSubjects) all += fmt::format("{}{}", all.empty() ? "" : "|", subject.name);
  return all;
}

std::string description() {
  std::string text = "Measures how fast this machine is.";
  for (const Subject& subject : kSubjects) text += fmt::format(" {}: {}.", subject.name, subject.text);
  return text;
}

}  // namespace

int run_bench(const Session& session, const std::vector<std::string>& arguments) {
  if (!session.is_cofre()) return run_bench_requests(session, arguments);
  for (const Subject& subject : kSubjects)
    if (!arguments.empty() && arguments[0] == subject.name)
      return subject.function(session, {arguments.begin() + 1, arguments.end()});
  const bool asks_help = !arguments.empty() && (arguments[0] == "-h" || arguments[0] == "--help");
  if (!arguments.empty() && !asks_help) return run_bench_requests(session, arguments);
  std::vector<std::string> unknown;
  CommandLine line(session, "bench", names() + " [OPTIONS]", description());
  line.arguments(unknown, "SUBJECT", "What to measure; cofre bench SUBJECT --help tells its options");
  line.parse(arguments);
  line.fail_usage(fmt::format("expecting what to measure: {}", names()));
}

}  // namespace cofre::tool
