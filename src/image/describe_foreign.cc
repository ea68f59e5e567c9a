#include "image/describe_foreign.h"

#include "format/foreign/vmdk.h"

namespace cofre::image {
namespace {

using Json = nlohmann::ordered_json;

// In the order in which QEMU prints it.
Json extent_json(const foreign::VmdkExtent& extent) {
  Json json = Json::object();
  if (extent.sparse && extent.sparse->compressed) json["compressed"] = true;
  json["virtual-size"] = extent.length_bytes;
  json["filename"] = extent.file != nullptr ? extent.file->name() : "";
  if (extent.sparse) json["cluster-size"] = extent.sparse->grain_bytes;
  json["format"] = extent.type;
  return json;
}

Json vmdk_json(const foreign::Vmdk& image) {
  Json extents = Json::array();
  for (const foreign::VmdkExtent& extent : image.extents()) extents.push_back(extent_json(extent));
  return {{"cid", image.descriptor().cid},
          {"parent-cid", image.descriptor().parent_cid},
          {"create-type", image.descriptor().create_type},
          {"extents", std::move(extents)}};
}

}  // namespace

void describe_foreign(foreign::Image& image, ImageInfo& info) {
  info.cluster_bytes = image.cluster_bytes();
  info.actual_bytes = image.allocated_bytes();
  if (const auto* const vmdk = dynamic_cast<const foreign::Vmdk*>(&image))
    info.format_specific = vmdk_json(*vmdk);
}

}  // namespace cofre::image
