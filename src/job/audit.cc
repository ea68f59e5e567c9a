#include "job/audit.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/checked.h"
#include "base/units.h"
#include "format/luks/luks1.h"
#include "job/audit_file.h"
#include "job/audit_keys.h"
#include "job/audit_wipe.h"
#include "job/job_control.h"

namespace cofre::job {
namespace {

using crypto::Look;
using qcow2::only_reserved;

bool is_encrypted(const image::Layer& layer) {
  return layer.luks != nullptr ||
         (layer.qcow2 != nullptr && layer.qcow2->header().crypt_method != qcow2::CryptMethod::kNone);
}

uint64_t bytes_to_examine(const image::OpenedImage& image) {
  uint64_t bytes = 0;
  for (const image::Layer& layer : image.chain) {
    if (!is_encrypted(layer)) continue;
    bytes += layer.file->length_bytes();
    if (layer.header_file != nullptr) bytes += key_area_of(*layer.luks).length_bytes;
    if (layer.data_file != nullptr) bytes += layer.data_file->length_bytes();
  }
  return bytes;
}

// Of what is in use. Compressed clusters, and what is not in use, are told apart elsewhere.
AuditKind kind_of_plain(uint8_t roles) {
  if (only_reserved(roles)) return AuditKind::kPlainReserved;
  return (roles & qcow2::kRoleActive) != 0 ? AuditKind::kPlainData : AuditKind::kPlainSnapshot;
}

// One encrypted qcow2 image or its data file.
class QcowAudit {
 public:
  QcowAudit(const image::Layer& layer, JobControl& control, io::Lanes& lanes, AuditReport& report)
      : image_(*layer.qcow2), control_(control), lanes_(lanes), report_(report) {}

  io::task<void> run() {
    const qcow2::Header& header = image_.header();
    bool frequencies = true;
    if (header.crypt_header) {
      const KeyArea keys = {image_.file(), header.crypt_header->offset, header.crypt_header->length_bytes};
      const luks::Luks1Header luks = co_await image_.luks_header();
      co_await audit_keys(keys, luks, report_);
      frequencies = luks.cipher.mode != crypto::CipherMode::ecb;
    }
    const qcow2::ImageLayout layout = co_await qcow2::layout_of(
        image_, {.cancelled = [this] { return stopped(); }, .reader = &lanes_.lane(lanes_.count() - 1)});
    report_.broken_references += layout.broken_references;
    for (const qcow2::Slack& slack : layout.slack) co_await look_at_slack(slack);
    co_await look_at_file(image_.file(), layout.file, frequencies);
    if (image_.data_file() != nullptr) co_await look_at_file(*image_.data_file(), layout.data, frequencies);
  }

 private:
  uint64_t cluster_bytes() const { return image_.header().cluster_bytes(); }

  bool stopped() const {
    control_.poll();  // throws
    return false;
  }

  io::task<void> look_at_slack(const qcow2::Slack& slack) {
    return for_each_sector(image_.file(), slack.begin, slack.end, [&](uint64_t at, ConstBytes bytes) {
      crypto::Frequencies together;
      Look look = crypto::look_at(bytes, &together);
      if (look == Look::kZero || (look == Look::kRandom && !slack.must_be_zero)) return;
      if (look == Look::kRandom) look = Look::kFrequencies;  // where nothing but zeros was ever written
      report_.add({AuditKind::kPlainSlack, image_.file().name(), at, bytes.size(), look,
                   fmt::format("behind the {}", slack.behind)});
    });
  }

  io::task<void> look_at_file(block::Device& file, const qcow2::ClusterRoles& roles, bool frequencies) {
    report_compressed(file, roles);
    const AuditedFile audited = {.device = file,
                                 .granule_bytes = cluster_bytes(),
                                 .roles = [&roles](uint64_t cluster) { return roles.of(cluster); },
                                 .frequencies = frequencies};
    const bool has_refcounts = &file == &image_.file();
    co_await look_through(audited, control_, lanes_, [&](const Sight& sight) {
      return classify(file, sight, roles.end() * cluster_bytes(), has_refcounts);
    });
  }

  // They are known from the tables; what they look like does not matter.
  void report_compressed(const block::Device& file, const qcow2::ClusterRoles& roles) {
    for (uint64_t cluster = 0; cluster < roles.end(); ++cluster) {
      const uint8_t use = roles.of(cluster);
      if ((use & qcow2::kRoleCompressed) == 0) continue;
      const bool active = (use & qcow2::kRoleActive) != 0;
      report_.add({active ? AuditKind::kCompressedCluster : AuditKind::kCompressedSnapshot, file.name(),
                   cluster * cluster_bytes(), cluster_bytes()});
    }
  }

  io::task<void> classify(block::Device& file, Sight sight, uint64_t used_end, bool has_refcounts) {
    if ((sight.roles & qcow2::kRoleCompressed) != 0) co_return;
    const auto found = [&](AuditKind kind, uint64_t begin, uint64_t end) {
      report_.add({kind, file.name(), begin, end - begin, sight.look});
    };
    if (sight.what == Sight::What::kRepeatedSector)
      co_return found(AuditKind::kRepeatedSectors, sight.begin, sight.end);
    if (sight.what == Sight::What::kRepeatedBlock)
      co_return found(AuditKind::kRepeatedBlocks, sight.begin, sight.end);
    if (sight.look == Look::kZero) {
      if (is_read_as_stored(sight.roles)) found(AuditKind::kZeroData, sight.begin, sight.end);
      co_return;
    }
    if (sight.roles != 0) co_return found(kind_of_plain(sight.roles), sight.begin, sight.end);
    for (uint64_t at = sight.begin; at < sight.end;) {
      const uint64_t end = std::min(align_down(at, cluster_bytes()) + cluster_bytes(), sight.end);
      found(co_await kind_of_unused(at, used_end, has_refcounts), at, end);
      at = end;
    }
  }

  static bool is_read_as_stored(uint8_t roles) {
    return (roles & qcow2::kRoleData) != 0 && (roles & qcow2::kRolePartial) == 0;
  }

  io::task<AuditKind> kind_of_unused(uint64_t offset, uint64_t used_end, bool has_refcounts) {
    if (has_refcounts && co_await qcow2::stored_refcount(image_, offset / cluster_bytes()) != 0)
      co_return AuditKind::kPlainLeaked;
    co_return offset >= used_end ? AuditKind::kPlainTail : AuditKind::kPlainFree;
  }

  qcow2::Image& image_;
  JobControl& control_;
  io::Lanes& lanes_;
  AuditReport& report_;
};

// A container: the header, then nothing but cipher text; or the header in a file of its own.
class ContainerAudit {
 public:
  ContainerAudit(const image::Layer& layer, AuditReport& report)
      : file_(*layer.file), luks_(*layer.luks), report_(report) {}

  io::task<void> run(JobControl& control, io::Lanes& lanes) {
    const luks::Luks1Header& header = luks_.header();
    payload_ = header.payload_offset_bytes();
    const KeyArea keys = key_area_of(luks_);
    co_await audit_keys(keys, header, report_);
    if (luks_.has_detached_header()) control.advance(keys.length_bytes);
    const AuditedFile audited = {.device = file_,
                                 .granule_bytes = kSectorBytes,
                                 .roles = [this](uint64_t sector) { return roles_of(sector); },
                                 .frequencies = header.cipher.mode != crypto::CipherMode::ecb};
    co_await look_through(audited, control, lanes, [this](const Sight& sight) { return note(sight); });
  }

 private:
  uint8_t roles_of(uint64_t sector) const {
    if (sector * kSectorBytes < payload_) return qcow2::kRoleMetadata;
    return qcow2::kRoleActive | qcow2::kRoleData;
  }

  io::task<void> note(Sight sight) {
    AuditKind kind = sight.look == Look::kZero ? AuditKind::kZeroData : AuditKind::kPlainData;
    if (sight.what == Sight::What::kRepeatedSector) kind = AuditKind::kRepeatedSectors;
    if (sight.what == Sight::What::kRepeatedBlock) kind = AuditKind::kRepeatedBlocks;
    report_.add({kind, file_.name(), sight.begin, sight.end - sight.begin, sight.look});
    co_return;
  }

  block::Device& file_;
  const luks::LuksContainer& luks_;
  AuditReport& report_;
  uint64_t payload_ = 0;
};

void report_plain_image(const image::Layer& layer, bool is_top, AuditReport& report) {
  report.add({AuditKind::kPlainImage, layer.path, 0,
              layer.file->allocated_bytes().value_or(layer.file->length_bytes()), Look::kZero,
              is_top ? "" : "backing file"});
}

}  // namespace

io::task<AuditReport> audit(image::OpenedImage& image, const Progress& progress, io::Lanes& lanes) {
  AuditReport report;
  JobControl control("audit", bytes_to_examine(image), progress);
  for (size_t depth = 0; depth < image.chain.size(); ++depth) {
    const image::Layer& layer = image.chain[depth];
    if (!is_encrypted(layer)) {
      report_plain_image(layer, depth == 0, report);
    } else if (layer.qcow2 != nullptr) {
      QcowAudit work(layer, control, lanes, report);
      co_await work.run();
    } else {
      ContainerAudit work(layer, report);
      co_await work.run(control, lanes);
    }
  }
  report.bytes_examined = bytes_to_examine(image);
  control.finish();
  co_return report;
}

}  // namespace cofre::job
