#include "tool/serving_control.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "export/nbd/protocol.h"
#include "format/qcow2/bitmap_actions.h"
#include "image/protocol_name.h"
#include "tool/new_snapshot.h"
#include "tool/version.h"

namespace cofre::tool {
namespace {

using control::Json;
using control::Request;

constexpr int kSocketMode = 0600;
constexpr const char* kBitmapContext = "qemu:dirty-bitmap:";

Json counters_of(const exporting::Activity& activity) {
  Json all = Json::object();
  for (unsigned i = 0; i < exporting::kOps; ++i) {
    const auto op = static_cast<exporting::Op>(i);
    const exporting::OpTotals totals = activity.totals(op);
    Json one = {{"requests", totals.requests}, {"errors", totals.errors}};
    if (op == exporting::Op::kRead || op == exporting::Op::kWrite) one["bytes"] = totals.bytes;
    one["seconds"] = static_cast<double>(totals.nanoseconds) / 1e9;
    all[std::string(exporting::op_name(op))] = std::move(one);
  }
  return all;
}

bool tells_of_bitmap(const exporting::Export& exported, const std::string& bitmap) {
  return std::ranges::any_of(exported.statuses,
                             [&](const auto& source) { return source->name() == kBitmapContext + bitmap; });
}

Json status_of(const Served& served) {
  const exporting::Export& exported = *served.exported;
  Json bitmaps = Json::array();
  for (const std::string& bitmap : served.how.bitmaps) bitmaps.push_back(bitmap);
  return {{"name", exported.name},
          {"description", exported.description},
          {"image", served.how.name.text},
          {"format", served.image.top().driver.empty() ? image::format_name(served.image.top().format)
                                                       : served.image.top().driver},
          {"encrypted", exported.encrypted},
          {"size_bytes", exported.device->length_bytes()},
          {"read_only", exported.read_only},
          {"virtual_machine", served.fixed},
          {"bitmaps", std::move(bitmaps)},
          {"clients", exported.activity->clients()},
          {"counters", counters_of(*exported.activity)}};
}

// An id of --object, named where the format has it.
void set_key_secret(image::ImageName& name, const std::string& id) {
  if (!name.format || (*name.format != image::Format::kQcow2 && *name.format != image::Format::kLuks))
    fail(ErrorKind::kInvalidArgument, "'key-secret' needs 'format', qcow2 or luks");
  name.options.set(*name.format == image::Format::kLuks ? "key-secret" : "encrypt.key-secret", id);
}

ServedImage take_image(Request& request) {
  const std::string text = request.text("image");
  const std::optional<std::string> format = request.take_text("format");
  const bool options = request.take_bool("image-opts").value_or(false);
  if (options && format)
    fail(ErrorKind::kInvalidArgument, "'image-opts' and 'format' exclude each other: give driver=FMT");
  std::optional<image::Format> parsed;
  if (format) parsed = image::parse_format(*format);
  ServedImage added = {.name = options ? image::parse_image_options(text)
                                       : image::parse_image_name(text, parsed)};
  added.export_name = request.text("export");
  added.description = request.take_text("description").value_or("");
  added.bitmaps = request.take_texts("bitmaps");
  if (request.take_bool("read-only").value_or(false)) added.read_only = true;
  added.passphrase_file = request.take_text("passphrase-file");
  if (const auto id = request.take_text("key-secret")) set_key_secret(added.name, *id);
  request.finish();
  for (const std::string* name : {&added.export_name, &added.description})
    if (name->size() > nbd::kMaxStringBytes)
      fail(ErrorKind::kInvalidArgument, "a name or description has at most {} bytes", nbd::kMaxStringBytes);
  return added;
}

Json described(const qcow2::BitmapEntry& bitmap) {
  return {{"name", bitmap.name},
          {"granularity_bytes", uint64_t{1} << bitmap.granularity_bits},
          {"enabled", bitmap.enabled()}};
}

Json described(const qcow2::SnapshotEntry& snapshot) {
  return {{"id", snapshot.id},
          {"name", snapshot.name},
          {"date_seconds", snapshot.date_seconds},
          {"disk_bytes", snapshot.disk_bytes}};
}

qcow2::Image& qcow2_of(const Served& served, const char* what) {
  const image::Layer& top = served.image.top();
  if (top.qcow2 == nullptr)
    fail(ErrorKind::kUnsupported, "export '{}' is {}: {} are a matter of qcow2", served.how.export_name,
         image::format_name(top.format), what);
  return *top.qcow2;
}

}  // namespace

ServingControl::ServingControl(const std::string& path, ServerParts parts)
    : parts_(parts),
      handler_([this](Request request) { return carry_out(std::move(request)); }),
      socket_(nbd::Listener::on_unix(path, kSocketMode), control::kMostConnections,
              [this](int fd, io::Cancel& cancel) { return control::converse(fd, cancel, handler_); }) {}

ServingControl::Command ServingControl::find(const std::string& command) {
  struct Entry {
    const char* name;
    Command function;
  };
  static constexpr std::array kCommands = {
      Entry{"status", &ServingControl::status},
      Entry{"export-add", &ServingControl::export_add},
      Entry{"export-remove", &ServingControl::export_remove},
      Entry{"bitmap-list", &ServingControl::bitmap_list},
      Entry{"bitmap-add", &ServingControl::bitmap_add},
      Entry{"bitmap-remove", &ServingControl::bitmap_remove},
      Entry{"bitmap-clear", &ServingControl::bitmap_clear},
      Entry{"snapshot-list", &ServingControl::snapshot_list},
      Entry{"snapshot-create", &ServingControl::snapshot_create},
      Entry{"snapshot-apply", &ServingControl::snapshot_apply},
      Entry{"snapshot-delete", &ServingControl::snapshot_delete},
      Entry{"rotate-log", &ServingControl::rotate_log},
      Entry{"stop", &ServingControl::stop_server},
  };
  const auto found = std::ranges::find(kCommands, command, &Entry::name);
  if (found == kCommands.end()) fail(ErrorKind::kUnsupported, "there is no command '{}'", command);
  return found->function;
}

// To look takes no turn.
io::task<Json> ServingControl::carry_out(Request request) {
  const Command function = find(request.command());
  if (function == &ServingControl::status || function == &ServingControl::stop_server)
    co_return co_await (this->*function)(std::move(request));
  const io::Mutex::Guard turn = co_await changing_.lock();
  co_return co_await (this->*function)(std::move(request));
}

io::task<Json> ServingControl::status(Request request) {
  request.finish();
  Json exports = Json::array();
  for (const Served& served : parts_.images.all())
    if (served.exported) exports.push_back(status_of(served));  // else it is being removed
  const std::chrono::duration<double> uptime = std::chrono::steady_clock::now() - started_;
  co_return Json{{"version", kVersion},
                 {"pid", ::getpid()},
                 {"uptime_seconds", uptime.count()},
                 {"addresses", parts_.server.uris()},
                 {"nbd_connections", parts_.server.connections()},
                 {"exports", std::move(exports)}};
}

// ---- exports ----

io::task<Json> ServingControl::export_add(Request request) {
  const Served* const added = co_await parts_.images.add(take_image(request));
  parts_.log(fmt::format("export '{}' was added", added->how.export_name));
  co_return status_of(*added);
}

io::task<Json> ServingControl::export_remove(Request request) {
  const std::string name = request.text("export");
  const bool force = request.take_bool("force").value_or(false);
  request.finish();
  Served& served = parts_.images.find(name);
  if (served.fixed)
    fail(ErrorKind::kUnsupported,
         "export '{}' is the disk of a virtual machine, or mounted: it stays until the end", name);
  const uint32_t clients = served.exported->activity->clients();
  if (clients > 0 && !force)
    fail(ErrorKind::kLocked, "export '{}' has clients ({}): they have to leave, or be sent away (force)",
         name, clients);
  co_await parts_.images.remove(served, parts_.server);
  parts_.log(fmt::format("export '{}' was removed", name));
  co_return Json::object();
}

// ---- bitmaps ----

qcow2::Image& ServingControl::changeable(Served& served, const char* what) {
  qcow2::Image& image = qcow2_of(served, what);
  if (served.exported->read_only)
    fail(ErrorKind::kReadOnly, "export '{}' is read-only: its image cannot be changed",
         served.how.export_name);
  return image;
}

io::task<Json> ServingControl::bitmap_list(Request request) {
  Served& served = parts_.images.find(request.text("export"));
  request.finish();
  qcow2::Image& image = qcow2_of(served, "bitmaps");
  co_await io::enter(parts_.lanes.lane(served.exported->lane));
  Json bitmaps = Json::array();
  std::exception_ptr failure;
  try {
    for (const qcow2::BitmapEntry& bitmap : qcow2::bitmaps_of(image)) bitmaps.push_back(described(bitmap));
  } catch (...) {
    failure = std::current_exception();
  }
  co_await io::enter(parts_.lanes.home());
  if (failure) std::rethrow_exception(failure);
  co_return bitmaps;
}

// Writes note themselves before they change anything. Those that began without the bitmap are waited for, so
// that whoever reads the disk after the answer finds what the bitmap does not have.
io::task<Json> ServingControl::bitmap_add(Request request) {
  Served& served = parts_.images.find(request.text("export"));
  const std::string name = request.text("bitmap");
  const std::optional<uint64_t> granularity = request.take_number("granularity");
  request.finish();
  co_await qcow2::add_bitmap(changeable(served, "bitmaps"), name, granularity);
  co_await served.exported->activity->wait_for_changes(parts_.lanes);
  co_return Json::object();
}

io::task<Json> ServingControl::bitmap_clear(Request request) {
  Served& served = parts_.images.find(request.text("export"));
  const std::string name = request.text("bitmap");
  request.finish();
  co_await qcow2::clear_bitmap(changeable(served, "bitmaps"), name);
  co_await served.exported->activity->wait_for_changes(parts_.lanes);
  co_return Json::object();
}

io::task<Json> ServingControl::bitmap_remove(Request request) {
  Served& served = parts_.images.find(request.text("export"));
  const std::string name = request.text("bitmap");
  request.finish();
  if (tells_of_bitmap(*served.exported, name))
    fail(ErrorKind::kLocked,
         "clients of export '{}' are told of bitmap '{}': it can be removed when the export is",
         served.how.export_name, name);
  co_await qcow2::remove_bitmap(changeable(served, "bitmaps"), name);
  co_return Json::object();
}

// ---- snapshots ----

io::task<Json> ServingControl::snapshot_list(Request request) {
  const Served& served = parts_.images.find(request.text("export"));
  request.finish();
  Json snapshots = Json::array();
  for (const qcow2::SnapshotEntry& snapshot : qcow2_of(served, "internal snapshots").snapshots())
    snapshots.push_back(described(snapshot));
  co_return snapshots;
}

// The image itself keeps requests that change its mapping away meanwhile, and waits for those in flight.
io::task<Json> ServingControl::snapshot_create(Request request) {
  Served& served = parts_.images.find(request.text("export"));
  const std::string name = request.text("snapshot");
  request.finish();
  qcow2::Image& image = changeable(served, "internal snapshots");
  co_await image.create_snapshot(new_snapshot(name));
  co_return described(image.snapshots().back());
}

io::task<Json> ServingControl::snapshot_delete(Request request) {
  Served& served = parts_.images.find(request.text("export"));
  const std::string name = request.text("snapshot");
  request.finish();
  qcow2::Image& image = changeable(served, "internal snapshots");
  const auto found = qcow2::find_snapshot(image.snapshots(), name);
  if (!found) fail(ErrorKind::kNotFound, "export '{}' has no snapshot '{}'", served.how.export_name, name);
  co_await image.delete_snapshot(*found);
  co_return Json::object();
}

io::task<Json> ServingControl::snapshot_apply(Request) {
  fail(ErrorKind::kUnsupported,
       "a disk cannot become another one under its clients: remove the export, apply the snapshot (cofre "
       "snapshot -a) and add the export again");
  co_return Json();
}

// ---- the server ----

io::task<Json> ServingControl::rotate_log(Request request) {
  request.finish();
  parts_.log.rotate();
  co_return Json::object();
}

io::task<Json> ServingControl::stop_server(Request request) {
  request.finish();
  parts_.stop.request();
  co_return Json::object();
}

}  // namespace cofre::tool
