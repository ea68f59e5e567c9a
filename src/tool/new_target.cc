#include "tool/new_target.h"

#include "base/error.h"

namespace cofre::tool {

void refuse_source_as_target(const image::OpenedImage& source, const std::string& target_path) {
  for (size_t depth = 0; depth < source.chain.size(); ++depth) {
    const image::Layer& layer = source.chain[depth];
    const bool is_data =
        layer.data_file != nullptr && storage::same_file(layer.data_file->name(), target_path);
    if (!is_data && !storage::same_file(layer.path, target_path)) continue;
    fail(ErrorKind::kInvalidArgument, "the target '{}' is the source{}: choose another name", target_path,
         is_data      ? "'s data file"
         : depth == 0 ? ""
                      : "'s backing file");
  }
}

bool new_target_reads_zero(const image::CreatePlan& plan, const image::TargetFile& target) {
  if (plan.format == image::Format::kLuks) return false;
  if (plan.format == image::Format::kRaw) return !target.in_place();
  const bool mapped =
      plan.settings.preallocation != qcow2::Preallocation::kOff || plan.settings.qcow2.data_file_raw;
  return !mapped || (!plan.encrypted() && !target.in_place());
}

}  // namespace cofre::tool
