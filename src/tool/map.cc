// cofre map: where an image's content lies: in which file of its chain, at which offset. Needs no passphrase.
#include <fmt/format.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/units.h"
#include "block/device.h"
#include "image/open.h"
#include "image/size.h"
#include "image/unwritten.h"
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

// A run of the guest's bytes that all rest the same way.
struct MapEntry {
  uint64_t start = 0;
  uint64_t length = 0;
  uint32_t depth = 0;
  bool present = false;
  bool zero = false;
  bool data = false;
  std::optional<uint64_t> offset;
  std::string file;

  bool continues(const MapEntry& before) const {
    const bool adjacent = !offset || (before.offset && *before.offset + before.length == *offset);
    return depth == before.depth && present == before.present && zero == before.zero && data == before.data &&
           offset.has_value() == before.offset.has_value() && adjacent && file == before.file;
  }
};

const image::Layer* layer_of(const image::OpenedImage& image, uint32_t depth) {
  return depth < image.chain.size() ? &image.chain[depth] : nullptr;
}

// The image, and what was found out about its layers so far.
struct Mapped {
  image::OpenedImage image = {};
  std::vector<std::optional<bool>> unwritten = {};  // of each layer
};

io::task<bool> has_unwritten_clusters(Mapped& mapped, uint32_t depth) {
  std::optional<bool>& known = mapped.unwritten[depth];
  const image::Layer& layer = mapped.image.chain[depth];
  if (!known) known = co_await image::has_unwritten_clusters(*layer.qcow2, *layer.file);
  co_return *known;
}

// Where a host file has a hole below a mapped cluster, the guest reads zeros: the extent ends where that
// changes.
io::task<void> look_below(Mapped& mapped, MapEntry& entry) {
  const image::Layer* const layer = layer_of(mapped.image, entry.depth);
  if (!entry.data || entry.zero || !entry.offset || layer == nullptr || layer->qcow2 == nullptr) co_return;
  if (layer->data_file != nullptr) co_return;
  const block::Extent below = co_await layer->file->map(*entry.offset, entry.length);
  const uint64_t length = below.length_bytes / kSectorBytes * kSectorBytes;
  if (length == 0) co_return;
  if (below.zero && !co_await has_unwritten_clusters(mapped, entry.depth)) co_return;
  entry.length = std::min(entry.length, length);
  entry.zero = below.zero;
}

// Zeros that no layer holds, because the backing file ends before them.
io::task<bool> past_short_backing(block::ChainExtent found, uint64_t offset) {
  const block::Device* const backing = found.layer->backing();
  if (backing == nullptr || offset < backing->length_bytes()) co_return false;
  const block::Extent own = co_await found.layer->map(offset, found.extent.length_bytes);
  co_return !own.allocated;
}

io::task<MapEntry> entry_at(Mapped& mapped, uint64_t offset, uint64_t length) {
  const block::ChainExtent found = co_await block::map_chain(*mapped.image.device, offset, length);
  MapEntry entry = {.start = offset,
                    .length = found.extent.length_bytes,
                    .depth = found.depth,
                    .present = found.extent.allocated,
                    .zero = found.extent.zero || !found.extent.allocated,
                    .data = found.extent.data && found.extent.allocated,
                    .offset = found.extent.host_offset,
                    .file = std::string(found.extent.host_name)};
  if (co_await past_short_backing(found, offset)) entry.present = false;
  co_await look_below(mapped, entry);
  co_return entry;
}

// Devices are asked about whole sectors, users ask about bytes.
io::task<MapEntry> entry_at_byte(Mapped& mapped, uint64_t at, uint64_t end) {
  const uint64_t first = align_down<uint64_t>(at, kSectorBytes);
  const uint64_t last = std::min(align_up<uint64_t>(end, kSectorBytes), mapped.image.device->length_bytes());
  MapEntry entry = co_await entry_at(mapped, first, last - first);
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

  void add(MapEntry entry) {
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

  void print_json(const MapEntry& entry) {
    fmt::print(
        "{}{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}",
        any_ ? ",\n" : "[", entry.start, entry.length, entry.depth, entry.present, entry.zero, entry.data);
    if (entry.offset) fmt::print(", \"offset\": {}", *entry.offset);
    fmt::print("}}");
    any_ = true;
  }

  static std::string hex(uint64_t value) { return value == 0 ? "0" : fmt::format("{:#x}", value); }

  static void print_text(const MapEntry& entry) {
    if (!entry.data || entry.zero) return;
    if (!entry.offset)
      fail(ErrorKind::kUnsupported,
           "file contains external, encrypted or compressed clusters, at offset {}: use --output=json",
           entry.start);
    fmt::print("{:<16}{:<16}{:<16}{}\n", hex(entry.start), hex(entry.length), hex(*entry.offset), entry.file);
  }

  bool json_;
  bool any_ = false;
  std::optional<MapEntry> pending_;
};

io::task<void> map(const MapArguments& given, bool json, image::Secrets& secrets) {
  Mapped mapped;
  mapped.image = co_await image::open_image(
      given.source.name(given.names[0]),
      {.force_share = given.source.force_share, .keys = image::Keys::kUnused, .secrets = &secrets});
  mapped.unwritten.resize(mapped.image.chain.size());
  const uint64_t length = mapped.image.device->length_bytes();
  uint64_t at = image::parse_size(given.start, "start offset");
  uint64_t end = length;
  if (given.length && at < length)
    end = at + std::min(length - at, image::parse_size(*given.length, "length"));
  MapPrinter printer(json);
  while (at < end) {
    MapEntry entry = co_await entry_at_byte(mapped, at, end);
    at += entry.length;
    printer.add(std::move(entry));
  }
  printer.finish();
  co_await mapped.image.close();
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
