// How many references the tables make to each host cluster, as the check counts them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cofre::qcow2 {

// One counter a host cluster: two bytes, in pieces made when a cluster of them is first referenced; a count
// that needs more is kept apart.
class ReferenceCounts {
 public:
  // Throws Error kLimit when the counters would take more than `most_bytes` of memory; `name` is for the
  // message.
  ReferenceCounts(std::string name, uint64_t most_bytes) : name_(std::move(name)), most_bytes_(most_bytes) {}

  void add(uint64_t cluster, uint64_t references) { set(cluster, of(cluster) + references); }
  void set(uint64_t cluster, uint64_t references);
  uint64_t of(uint64_t cluster) const noexcept;
  // One past the last cluster that was ever referenced.
  uint64_t end() const noexcept { return end_; }

  // Clusters per piece; a piece is made when one of its clusters is first referenced.
  static constexpr uint64_t kPerPiece = 512;
  // The first clusters of all pieces, in order.
  std::vector<uint64_t> pieces() const;

 private:
  using Piece = std::array<uint16_t, kPerPiece>;
  static constexpr uint16_t kWide = UINT16_MAX;  // the count stands in wide_

  const Piece* find(uint64_t cluster) const noexcept;
  Piece& piece_for(uint64_t cluster);

  std::string name_;
  uint64_t most_bytes_;
  uint64_t end_ = 0;
  std::unordered_map<uint64_t, std::unique_ptr<Piece>> pieces_;
  std::unordered_map<uint64_t, uint64_t> wide_;
  mutable uint64_t last_key_ = UINT64_MAX;  // neighbours are asked for in turn
  mutable Piece* last_piece_ = nullptr;
};

// Ranges that may overlap, each with a weight, summed into disjoint ones: so that thousands of tables laid
// over each other cost no more than one.
class RangeSum {
 public:
  struct Range {
    uint64_t begin;
    uint64_t end;
    uint64_t weight;
  };

  void add(uint64_t begin, uint64_t end, uint64_t weight = 1) {
    if (begin >= end) return;
    edges_.push_back({begin, weight});
    edges_.push_back({end, uint64_t{0} - weight});
  }
  // Disjoint ranges of weight above zero, in order.
  std::vector<Range> sum() const;

 private:
  std::vector<std::pair<uint64_t, uint64_t>>
      edges_;  // where the weight changes, and by how much (modulo 2^64)
};

}  // namespace cofre::qcow2
