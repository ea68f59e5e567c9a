// What each cluster of an image's files is for, for whoever looks at all of their bytes (the audit).
// Source: qcow2 specification, "Cluster mapping", "Host cluster management", "Snapshots", "Bitmaps".
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/bytes.h"
#include "format/qcow2/image.h"
#include "io/reactor.h"

namespace cofre::qcow2 {

enum Role : uint8_t {
  kRoleMetadata = 1u << 0,    // header, tables, refcounts, bitmaps: never encrypted
  kRoleActive = 1u << 1,      // the disk's present state
  kRoleSnapshot = 1u << 2,    // some snapshot's
  kRoleCompressed = 1u << 3,  // compressed clusters lie in it
  kRoleReserved = 1u << 4,    // behind a cluster that reads as zero
  kRolePartial = 1u << 5,     // some of its subclusters hold nothing
  kRoleKeys = 1u << 6,        // the encryption header
  kRoleData = 1u << 7,        // somebody reads these very bytes
};
// Nobody reads what is in it: every cluster that it stands behind reads as zero.
constexpr bool only_reserved(uint8_t roles) noexcept {
  return (roles & (kRoleReserved | kRoleData)) == kRoleReserved;
}

// A byte a cluster, in pieces that are made when a cluster of theirs gets its first role. Once it is made,
// any lane may look.
class ClusterRoles {
 public:
  // Throws Error kLimit when it would take more than `most_bytes` of memory; `name` is for the message.
  ClusterRoles(std::string name, uint64_t most_bytes) : name_(std::move(name)), most_bytes_(most_bytes) {}

  void add(uint64_t first, uint64_t count, uint8_t roles);
  // Nothing refers to a cluster without a role.
  uint8_t of(uint64_t cluster) const noexcept;
  // One past the last cluster that has one.
  uint64_t end() const noexcept { return end_; }

 private:
  static constexpr uint64_t kPerPiece = 4096;
  using Piece = std::array<uint8_t, kPerPiece>;

  std::string name_;
  uint64_t most_bytes_;
  uint64_t bytes_ = 0;
  uint64_t end_ = 0;
  std::unordered_map<uint64_t, std::unique_ptr<Piece>> pieces_;
};

// Bytes behind metadata that does not fill its last cluster: nothing uses them.
struct Slack {
  uint64_t begin = 0;
  uint64_t end = 0;
  std::string behind = {};    // "L1 table"
  bool must_be_zero = false;  // where it lies was never anything else
};

struct ImageLayout {
  ClusterRoles file;  // by host cluster
  ClusterRoles data;  // by guest cluster: of the external data file
  std::vector<Slack> slack = {};
  uint64_t broken_references = 0;  // that cannot be followed: the image is to be checked
};

struct LayoutOptions {
  std::function<bool()> cancelled = nullptr;
  io::Reactor* reader = nullptr;  // another lane, to read tables ahead on
};

// `image` was opened with OpenOptions::for_check. Every table is read once, in the order of the file. Throws
// Error as the file, and kCancelled.
io::task<ImageLayout> layout_of(Image& image, LayoutOptions options);

// The refcount of a cluster as the disk has it; 0 where the refcount structure cannot tell.
io::task<uint64_t> stored_refcount(Image& image, uint64_t cluster);

}  // namespace cofre::qcow2
