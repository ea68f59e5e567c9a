// cofre map: where an image's content lies: in which file of its chain, at which offset. Needs no passphrase.
#include <fmt/format.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "image/block_status.h"
#include "image/size.h"
#include "io/lanes.h"
#include "tool/command_line.h"

namespace cofre::tool {
namespace {

struct MapArguments {
  SourceOptions source;
  SecretOptions secrets;
  std::string output = "human";
  std::string start = "0";
  std::optional<std::string> length;
  std::vector<std::string> names;
};

void declare(CommandLine& line, MapArguments& into) {
  into.source.add_to(line);
  line.value("--output", into.output, "FORM",
             "human (default): the data in uncompressed, plain clusters; json: all");
  line.value("-s,--start-offset", into.start, "BYTES", "Start here");
  line.value("-l,--max-length", into.length, "BYTES", "Look at so many bytes at most");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image");
}

using image::BlockStatus;

// Devices are asked about whole sectors, users ask about bytes.
io::task<BlockStatus> entry_at_byte(image::BlockStatusReader& reader, uint64_t device_end, uint64_t at,
                                    uint64_t end) {
  const uint64_t first = align_down<uint64_t>(at, kSectorBytes);
  const uint64_t last = std::min(align_up<uint64_t>(end, kSectorBytes), device_end);
  BlockStatus entry = co_await reader.at(first, last - first);
  entry.start = at;
  entry.length = std::min(entry.length - (at - first), end - at);
  if (entry.offset) *entry.offset += at - first;
  co_return entry;
}

// Entries one after the other, printed as soon as it is known where they end.
class MapPrinter {
 public:
  explicit MapPrinter(bool json) : json_(json) {
    if (!json_) fmt::print("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to", "File");
  }

  void add(BlockStatus entry) {
    if (pending_ && entry.continues(*pending_)) {
      pending_->length += entry.length;
      return;
    }
    flush();
    pending_ = std::move(entry);
  }

  void finish() {
    flush();
    if (json_ && !any_) print_json({});  // a disk of no bytes has one entry of none
    if (json_) fmt::print("]\n");
  }

 private:
  void flush() {
    if (!pending_) return;
    if (json_) {
      print_json(*pending_);
    } else {
      print_text(*pending_);
    }
    pending_.reset();
  }

  void print_json(const BlockStatus& entry) {
    fmt::print(
        "{}{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}",
        any_ ? ",\n" : "[", entry.start, entry.length, entry.depth, entry.present, entry.zero, entry.data);
    if (entry.offset) fmt::print(", \"offset\": {}", *entry.offset);
    fmt::print("}}");
    any_ = true;
  }

  static std::string hex(uint64_t value) { return value == 0 ? "0" : fmt::format("{:#x}", value); }

  static void print_text(const BlockStatus& entry) {
    if (!entry.data || entry.zero) return;
    if (!entry.offset)
      fail(ErrorKind::kUnsupported,
           "file contains external, encrypted or compressed clusters, at offset {}: use --output=json",
           entry.start);
    fmt::print("{:<16}{:<16}{:<16}{}\n", hex(entry.start), hex(entry.length), hex(*entry.offset), entry.file);
  }

  bool json_;
  bool any_ = false;
  std::optional<BlockStatus> pending_;
};

io::task<void> map(const MapArguments& given, bool json, image::Secrets& secrets) {
  image::OpenedImage image = co_await image::open_image(
      given.source.name(given.names[0]),
      {.force_share = given.source.force_share, .keys = image::Keys::kUnused, .secrets = &secrets});
  image::BlockStatusReader reader(image);
  const uint64_t length = image.device->length_bytes();
  uint64_t at = image::parse_size(given.start, "start offset");
  uint64_t end = length;
  if (given.length && at < length)
    end = at + std::min(length - at, image::parse_size(*given.length, "length"));
  MapPrinter printer(json);
  while (at < end) {
    BlockStatus entry = co_await entry_at_byte(reader, length, at, end);
    at += entry.length;
    printer.add(std::move(entry));
  }
  printer.finish();
  co_await image.close();
}

}  // namespace

int run_map(const Session& session, const std::vector<std::string>& arguments) {
  MapArguments given;
  CommandLine line(session, "map", "[-f FMT] [--output human|json] [-s OFFSET] [-l LENGTH] [-U] FILE",
                   "Shows where the content of an image lies, down its chain of backing files.");
  declare(line, given);
  line.parse(arguments);
  if (given.names.size() != 1) line.fail_usage("expecting one image file name");
  const bool json = parse_output_is_json(given.output);
  image::Secrets secrets = given.secrets.secrets();  // metadata needs none, but other objects
  io::Lanes lanes(1);
  lanes.run(map(given, json, secrets));
  return 0;
}

}  // namespace cofre::tool
