// cofre info: what an image is, from its headers. Needs no passphrase.
#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "image/describe.h"
#include "io/lanes.h"
#include "tool/command_line.h"

namespace cofre::tool {
namespace {

constexpr size_t kMostLayers = 200;

struct InfoArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::string output = "human";
  bool backing_chain = false;
  bool limits = false;
  std::vector<std::string> names;
};

void declare(CommandLine& line, InfoArguments& into) {
  into.source.add_to(line);
  line.flag("--backing-chain", into.backing_chain,
            "Tell also of the backing file, its backing file, and so on");
  line.flag("--limits", into.limits, "Tell also which requests the image takes: alignment, sizes");
  line.value("--output", into.output, "FORM", "human (default) or json");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image");
}

// The image below, or nothing.
std::optional<image::ImageName> next_name(const image::ImageInfo& info) {
  if (!info.full_backing_filename) return std::nullopt;
  std::optional<image::Format> format;
  if (info.backing_format) format = image::find_format(*info.backing_format);
  return image::parse_header_name(*info.full_backing_filename, format);
}

// Throws Error when the chain comes back to a file seen before.
void note_file(const image::Layer& layer, std::vector<storage::FileDevice::Identity>& seen) {
  if (seen.size() > kMostLayers)
    fail(ErrorKind::kLimit, "the backing chain is longer than {} images", kMostLayers);
  // Of what is no file of this host nobody knows whether it was seen before: it counts by itself.
  const auto identity =
      layer.host_file != nullptr ? layer.host_file->identity() : storage::FileDevice::Identity{};
  if (layer.host_file != nullptr && std::find(seen.begin(), seen.end(), identity) != seen.end())
    fail(ErrorKind::kInvalidArgument, "backing file '{}' creates an infinite loop", layer.path);
  seen.push_back(identity);
}

io::task<std::vector<image::ImageInfo>> describe_chain(image::ImageName first, bool force_share,
                                                       bool whole_chain, bool limits,
                                                       image::Secrets& secrets) {
  std::vector<image::ImageInfo> infos;
  std::vector<storage::FileDevice::Identity> seen;
  std::optional<image::ImageName> name = std::move(first);
  image::References references = name->references;
  while (name) {
    image::OpenedImage image = co_await image::open_image(std::move(*name), {.force_share = force_share,
                                                                             .no_backing = true,
                                                                             .headers_only = true,
                                                                             .keys = image::Keys::kUnused,
                                                                             .secrets = &secrets});
    note_file(image.top(), seen);
    if (seen.size() == 1) references = references.of(image.top().host_file ? image.top().path : "");
    infos.push_back(co_await image::describe(image));
    if (limits) infos.back().limits = image::limits_json(image.device->limits());
    co_await image.close();
    name = whole_chain ? next_name(infos.back()) : std::nullopt;
    if (name) references.require_all(name->options, infos.back().filename, "backing file");
  }
  co_return infos;
}

void print_infos(const std::vector<image::ImageInfo>& infos, bool json, bool as_list) {
  if (!json) {
    for (size_t i = 0; i < infos.size(); ++i)
      fmt::print("{}{}", i > 0 ? "\n" : "", image::info_text(infos[i]));
    return;
  }
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const image::ImageInfo& info : infos) list.push_back(image::info_json(info));
  fmt::print("{}\n", image::print_json(as_list ? list : list[0]));
}

}  // namespace

int run_info(const Session& session, const std::vector<std::string>& arguments) {
  InfoArguments given;
  CommandLine line(session, "info", "[-f FMT] [--output human|json] [--backing-chain] [-U] FILE",
                   "Tells what a disk image is: format, size, encryption, backing file.");
  declare(line, given);
  line.parse(arguments);
  if (given.names.size() != 1) line.fail_usage("expecting one image file name");
  const bool json = parse_output_is_json(given.output);
  image::Secrets secrets = given.secrets.secrets();  // headers need none, but other objects
  io::Lanes lanes(1);
  const auto infos = lanes.run(describe_chain(given.source.name(given.names[0]), given.source.force_share,
                                              given.backing_chain, given.limits, secrets));
  print_infos(infos, json, given.backing_chain);
  return 0;
}

}  // namespace cofre::tool
