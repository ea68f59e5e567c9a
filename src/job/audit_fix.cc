// What can be done about what the audit finds. Nothing here changes a byte that somebody reads.
#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "format/qcow2/cluster_roles.h"
#include "job/audit.h"
#include "job/audit_keys.h"
#include "job/audit_wipe.h"
#include "job/job_control.h"

namespace cofre::job {
namespace {

constexpr uint64_t kPieceBytes = kMiB;

io::task<void> encrypt_extent(qcow2::Image& image, uint64_t offset, uint64_t length) {
  AlignedBuffer buffer(std::max<uint64_t>(kPieceBytes, image.header().cluster_bytes()));
  while (length > 0) {
    const uint64_t step = std::min<uint64_t>(buffer.size(), length);
    const Bytes bytes = buffer.bytes().first(step);
    co_await image.read(offset, bytes);
    co_await image.write(offset, bytes);
    offset += step;
    length -= step;
  }
}

// Clusters of one file that nobody reads.
io::task<uint64_t> wipe_clusters(block::Device& file, const qcow2::ClusterRoles& roles,
                                 uint64_t cluster_bytes, JobControl& control) {
  uint64_t wiped = 0;
  const uint64_t length = file.length_bytes();
  for (uint64_t at = 0; at < length; at += cluster_bytes) {
    control.advance(std::min(cluster_bytes, length - at));
    const uint8_t use = roles.of(at / cluster_bytes);
    if (use != 0 && !qcow2::only_reserved(use)) continue;
    wiped += co_await wipe(file, at, at + cluster_bytes, /*give_back=*/use == 0);
  }
  co_return wiped;
}

io::task<void> wipe_qcow2(qcow2::Image& image, const Progress& progress, AuditFixes& fixes) {
  const qcow2::Header& header = image.header();
  block::Device& file = image.file();
  block::Device* const data = image.data_file();
  JobControl control("audit", file.length_bytes() + (data != nullptr ? data->length_bytes() : 0), progress);
  const qcow2::ImageLayout layout = co_await qcow2::layout_of(image, {.cancelled = progress.cancelled});
  fixes.bytes_wiped += co_await wipe_clusters(file, layout.file, header.cluster_bytes(), control);
  if (data != nullptr)
    fixes.bytes_wiped += co_await wipe_clusters(*data, layout.data, header.cluster_bytes(), control);
  for (const qcow2::Slack& slack : layout.slack)
    fixes.bytes_wiped += co_await wipe(file, slack.begin, slack.end);
  if (header.crypt_header)
    co_await wipe_keys({file, header.crypt_header->offset, header.crypt_header->length_bytes},
                       co_await image.luks_header(), fixes);
  co_await file.flush();
  if (data != nullptr) co_await data->flush();
  control.finish();
}

}  // namespace

io::task<void> encrypt_compressed(image::OpenedImage& image, const Progress& progress, AuditFixes& fixes) {
  qcow2::Image& top = *image.top().qcow2;
  JobControl control("audit", top.length_bytes(), progress);
  for (uint64_t at = 0; at < top.length_bytes();) {
    control.poll();
    const block::Extent extent = co_await top.map(at, top.length_bytes() - at);
    if (extent.compressed) {
      co_await encrypt_extent(top, at, extent.length_bytes);
      fixes.bytes_encrypted += extent.length_bytes;
    }
    at += extent.length_bytes;
    control.advance(extent.length_bytes);
  }
  co_await top.flush();
  control.finish();
}

io::task<void> wipe_unused(image::OpenedImage& image, const Progress& progress, AuditFixes& fixes) {
  const image::Layer& top = image.top();
  if (top.qcow2 != nullptr) {
    co_await wipe_qcow2(*top.qcow2, progress, fixes);
  } else if (top.luks != nullptr) {
    co_await wipe_keys(key_area_of(*top.luks), top.luks->header(), fixes);
    co_await top.luks->header_storage().flush();
  }
}

}  // namespace cofre::job
