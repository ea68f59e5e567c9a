#include "tool/new_target.h"

#include "base/error.h"

namespace cofre::tool {

void refuse_source_as_target(const image::OpenedImage& source, const std::string& target_path) {
  for (size_t depth = 0; depth < source.chain.size(); ++depth) {
    const image::Layer& layer = source.chain[depth];
    const auto is_target = [&](const block::Device* file) {
      return file != nullptr && storage::same_file(file->name(), target_path);
    };
    const bool is_data = is_target(layer.data_file);
    const bool is_header = is_target(layer.header_file);
    if (!is_data && !is_header && !storage::same_file(layer.path, target_path)) continue;
    fail(ErrorKind::kInvalidArgument, "the target '{}' is the source{}: choose another name", target_path,
         is_data      ? "'s data file"
         : is_header  ? "'s LUKS header"
         : depth == 0 ? ""
                      : "'s backing file");
  }
}

void refuse_header_alone(const image::CreatePlan& plan) {
  if (plan.format != image::Format::kLuks || !plan.settings.luks.detached) return;
  fail(ErrorKind::kInvalidArgument,
       "'{}': detached-header makes a header and nothing that holds data: create it, and give both files to "
       "-n --target-image-opts driver=luks,key-secret=ID,file.filename=PAYLOAD,header.filename=HEADER",
       plan.path);
}

bool new_target_reads_zero(const image::CreatePlan& plan, const image::TargetFile& target) {
  if (plan.format == image::Format::kLuks) return false;
  if (plan.format == image::Format::kRaw) return !target.in_place();
  const bool mapped =
      plan.settings.preallocation != qcow2::Preallocation::kOff || plan.settings.qcow2.data_file_raw;
  return !mapped || (!plan.encrypted() && !target.in_place());
}

}  // namespace cofre::tool
