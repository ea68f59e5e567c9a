#include "image/snapshot_param.h"

#include "base/error.h"
#include "image/options.h"

namespace cofre::image {
namespace {

constexpr std::string_view kPrefix = "snapshot.";

qcow2::SnapshotSelector parse_selector(const std::string& param) {
  Options options = Options::parse_list(param);
  qcow2::SnapshotSelector selector;
  selector.id = options.take("snapshot.id");
  selector.name = options.take("snapshot.name");
  options.finish("a snapshot's description");
  return selector;
}

}  // namespace

size_t choose_snapshot(const qcow2::Image& image, const std::string& param) {
  const auto found = param.starts_with(kPrefix)
                         ? qcow2::find_snapshot(image.snapshots(), parse_selector(param))
                         : qcow2::find_snapshot(image.snapshots(), param);
  if (!found)
    fail(ErrorKind::kNotFound, "'{}': Can't find snapshot '{}'; snapshot -l lists those there are",
         image.name(), param);
  return *found;
}

}  // namespace cofre::image
