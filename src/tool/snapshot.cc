// cofre snapshot: lists, creates, applies and deletes the internal snapshots of a qcow2 image. Needs no
// passphrase: guest data is neither read nor written.
#include <fmt/format.h>

#include "base/error.h"
#include "image/describe.h"
#include "image/snapshot_param.h"
#include "io/lanes.h"
#include "tool/command_line.h"
#include "tool/new_snapshot.h"

namespace cofre::tool {
namespace {

struct SnapshotArguments {
  SourceOptions source;
  SecretOptions secrets;
  unsigned list = 0;  // how often -l is given
  std::vector<std::string> apply;
  std::vector<std::string> create;
  std::vector<std::string> remove;
  bool quiet = false;
  std::vector<std::string> names;

  size_t actions() const { return list + apply.size() + create.size() + remove.size(); }
  bool changes() const { return actions() > 0 && list == 0; }
};

void declare(CommandLine& line, SnapshotArguments& into) {
  into.source.add_to(line);
  line.step("-l,--list", [&into] { ++into.list; }, "List the snapshots");
  line.values("-c,--create", into.create, "NAME", "Keep the present state of the disk under this name");
  line.values("-a,--apply", into.apply, "SNAPSHOT",
              "Make the disk what it was, its size included: changes since are lost. An ID or a name");
  line.values("-d,--delete", into.remove, "NAME", "Delete the first snapshot of this name");
  line.flag("-q", into.quiet, "Taken for compatibility: nothing but the list and errors is printed anyway");
  into.secrets.add_to(line);
  line.arguments(into.names, "FILE", "The image");
}

size_t find(const qcow2::Image& image, std::optional<size_t> found, const char* verb,
            const std::string& name) {
  if (!found)
    fail(ErrorKind::kNotFound, "Could not {} snapshot '{}': '{}' has none such", verb, name, image.name());
  return *found;
}

io::task<void> act(qcow2::Image& image, const SnapshotArguments& given) {
  for (const std::string& name : given.create) co_await image.create_snapshot(new_snapshot(name));
  for (const std::string& name : given.apply) {
    const auto found = qcow2::find_snapshot(image.snapshots(), name);
    co_await image.apply_snapshot(find(image, found, "apply", name));
  }
  for (const std::string& name : given.remove) {
    const auto found =
        qcow2::find_snapshot(image.snapshots(), qcow2::SnapshotSelector{.id = std::nullopt, .name = name});
    co_await image.delete_snapshot(find(image, found, "delete", name));
  }
}

io::task<void> run_on_image(const SnapshotArguments& given, image::Secrets& secrets) {
  image::OpenedImage image =
      co_await image::open_image(given.source.name(given.names[0]), {.writable = given.changes(),
                                                                     .force_share = given.source.force_share,
                                                                     .no_backing = true,
                                                                     .keys = image::Keys::kUnused,
                                                                     .secrets = &secrets});
  qcow2::Image* const qcow2 = image.top().qcow2;
  if (given.changes() && qcow2 == nullptr)
    fail(ErrorKind::kUnsupported, "'{}' is {}: internal snapshots are a matter of qcow2", image.top().path,
         image::format_name(image.top().format));
  if (given.changes()) co_await act(*qcow2, given);
  if (given.list > 0 && qcow2 != nullptr) fmt::print("{}", image::snapshots_text(qcow2->snapshots()));
  co_await image.close();
}

}  // namespace

int run_snapshot(const Session& session, const std::vector<std::string>& arguments) {
  SnapshotArguments given;
  CommandLine line(session, "snapshot", "[-l | -c NAME | -a SNAPSHOT | -d NAME] FILE",
                   "Lists, creates, applies or deletes the internal snapshots of a qcow2 image.");
  declare(line, given);
  line.parse(arguments);
  if (given.actions() > 1) line.fail_usage("Cannot mix '-l', '-a', '-c', '-d'");
  if (given.names.size() != 1) line.fail_usage("Expecting one image file name");
  image::Secrets secrets = given.secrets.secrets();  // metadata needs none, but other objects
  io::Lanes lanes(1);
  lanes.run(run_on_image(given, secrets));
  return 0;
}

}  // namespace cofre::tool
