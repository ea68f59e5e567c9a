// cofre doctor: a page on the host, an image and a libvirt domain. Exit status: 0 nothing needs attention, 1
// the examination failed, 2 something needs attention.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "doctor/domain.h"
#include "doctor/host.h"
#include "doctor/image.h"
#include "image/describe.h"
#include "io/lanes.h"
#include "tool/command_line.h"
#include "tool/doctor_page.h"
#include "tool/interrupt.h"
#include "tool/terminal.h"

namespace cofre::tool {
namespace {

constexpr int kNeedsAttention = 2;
constexpr std::chrono::milliseconds kEachSpeed{50};

struct DoctorArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::string output = "human";
  std::optional<std::string> domain;
  bool quick = false;
  std::vector<std::string> names;
};

void declare(CommandLine& line, DoctorArguments& into) {
  into.source.add_to(line);
  line.value("--domain", into.domain, "FILE",
             "Look also at a libvirt domain: what virsh dumpxml prints, /dev/stdin for a pipe");
  line.flag("--quick", into.quick, "Measure nothing");
  line.value("--output", into.output, "FORM", "human (default) or json");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "An image to look at");
}

doctor::HostFacts host_facts(const DoctorArguments& given) {
  doctor::HostFacts facts = doctor::look_at_host();
  if (!given.quick) facts.speeds = doctor::measure_aes_speeds(facts.kernel, kEachSpeed);
  return facts;
}

doctor::Section image_section(const DoctorArguments& given, image::Secrets* secrets, bool can_encrypt) {
  io::Lanes lanes(1);
  return doctor::examine_image(lanes.run(
      doctor::look_at_image(given.source.name(given.names[0]), {.force_share = given.source.force_share,
                                                                .measure = !given.quick && can_encrypt,
                                                                .secrets = secrets,
                                                                .cancelled = interrupted})));
}

doctor::Section domain_section(const std::string& path) {
  doctor::Domain domain = doctor::read_domain(path);
  doctor::probe_disks(domain);
  return doctor::examine_domain(domain, crypto::cpu_features());
}

}  // namespace

int run_doctor(const Session& session, const std::vector<std::string>& arguments) {
  DoctorArguments given;
  CommandLine line(
      session, "doctor", "[--domain FILE] [--quick] [--output human|json] [-f FMT] [-U] [FILE]",
      "Tells what is right and wrong with this host, an image and its backing files, and a libvirt "
      "domain. Exit status: 0 nothing needs attention, 1 the examination failed, 2 something needs "
      "attention.");
  declare(line, given);
  line.parse(arguments);
  if (given.names.size() > 1) line.fail_usage("expecting at most one image file name");
  const bool json = parse_output_is_json(given.output);
  image::Secrets secrets = given.secrets.secrets();
  const doctor::HostFacts host = host_facts(given);
  std::vector<doctor::Section> sections = {doctor::examine_host(host)};
  if (!given.names.empty())
    sections.push_back(image_section(given, given.secrets.given() ? &secrets : nullptr,
                                     /*can_encrypt=*/!host.kernel.empty()));
  if (given.domain) sections.push_back(domain_section(*given.domain));
  if (json)
    fmt::print("{}\n", image::print_json(doctor::report_json(sections)));
  else
    fmt::print("{}", doctor_page(sections, host.speeds, standard_output_has_colours()));
  return doctor::count_attention(sections) > 0 ? kNeedsAttention : 0;
}

}  // namespace cofre::tool
