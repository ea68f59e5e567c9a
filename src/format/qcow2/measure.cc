#include "format/qcow2/measure.h"

#include <algorithm>

#include "base/checked.h"
#include "base/error.h"
#include "format/luks/luks1.h"
#include "format/qcow2/header.h"

namespace cofre::qcow2 {
namespace {

struct Geometry {
  uint64_t cluster;
  uint64_t entries_per_l2;
  uint64_t refcounts_per_block;
};

Geometry geometry_of(const CreateOptions& options) {
  const uint64_t cluster = uint64_t{1} << options.cluster_bits;
  return {.cluster = cluster,
          .entries_per_l2 = cluster / (options.extended_l2 ? 16 : 8),
          .refcounts_per_block = cluster * 8 >> options.refcount_order};
}

// The refcount table and blocks that count `clusters` others and themselves.
uint64_t refcount_clusters(const Geometry& geometry, uint64_t clusters) {
  uint64_t blocks = 0;
  uint64_t table = 0;
  while (true) {  // more of them need more of them: ends after a few rounds
    const uint64_t more_blocks = div_ceil(clusters + blocks + table, geometry.refcounts_per_block);
    const uint64_t more_table = div_ceil(more_blocks * 8, geometry.cluster);
    if (more_blocks == blocks && more_table == table) return blocks + table;
    blocks = more_blocks;
    table = more_table;
  }
}

// Header, L2 tables, L1 table and refcounts of an image that has `data_clusters`.
uint64_t metadata_clusters(const Geometry& geometry, uint64_t data_clusters) {
  const uint64_t l2_tables = div_ceil(data_clusters, geometry.entries_per_l2);
  const uint64_t l1_clusters = div_ceil(l2_tables * 8, geometry.cluster);
  const uint64_t tables = 1 + l2_tables + l1_clusters;
  return tables + refcount_clusters(geometry, tables + data_clusters);
}

uint64_t crypt_header_bytes(const CreateOptions& options) {
  return options.encryption == CryptMethod::kLuks ? luks::luks1_header_bytes(options.luks) : 0;
}

}  // namespace

Measurement measure(const CreateOptions& options, uint64_t data_bytes) {
  const Geometry geometry = geometry_of(options);
  const uint64_t data_clusters = div_ceil(options.size_bytes, geometry.cluster);
  if (div_ceil(data_clusters, geometry.entries_per_l2) > kMaxL1Bytes / 8)
    fail(ErrorKind::kLimit,
         "The image size is too large: {} bytes cannot be mapped with clusters of {} bytes (try using a "
         "larger "
         "cluster size)",
         options.size_bytes, geometry.cluster);
  const uint64_t metadata = metadata_clusters(geometry, data_clusters) * geometry.cluster +
                            align_up(crypt_header_bytes(options), geometry.cluster);
  const uint64_t whole = data_clusters * geometry.cluster;
  const bool reserved =
      options.preallocation == Preallocation::kFalloc || options.preallocation == Preallocation::kFull;
  return {.required_bytes = metadata + (reserved ? whole : data_bytes),
          .fully_allocated_bytes = metadata + whole};
}

}  // namespace cofre::qcow2
