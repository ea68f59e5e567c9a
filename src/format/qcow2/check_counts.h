// How many references the tables make to each host cluster, as the check counts them.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace cofre::qcow2 {

// One bit a host cluster says that it is referenced, one that it is more than once: then the count stands
// apart, in a byte, or in a map when that is not enough. Nearly all clusters of nearly all images have one
// reference, so half a byte a cluster serves (with two bits more for the copied flags), and 64 clusters are
// one comparison.
//
// Pieces are made when a cluster of theirs is first referenced, so clusters that are far apart cost little.
class ReferenceCounts {
 public:
  static constexpr uint64_t kPerWord = 64;
  // Clusters per piece.
  static constexpr uint64_t kPerPiece = 4096;

  // What is known of 64 clusters; bit i is cluster first + i.
  struct Word {
    uint64_t referenced = 0;
    uint64_t several = 0;  // referenced more than once
    uint64_t copied = 0;   // some active L2 entry has the copied flag
    uint64_t plain = 0;    // some active L2 entry does not have it

    // Clusters for which a flag and the count of references cannot both be right.
    uint64_t flags_at_odds() const noexcept { return (copied & several) | (plain & referenced & ~several); }
  };

  // Throws Error kLimit when the counters would take more than `most_bytes` of memory; `name` is for the
  // message.
  ReferenceCounts(std::string name, uint64_t most_bytes) : name_(std::move(name)), most_bytes_(most_bytes) {}

  void add(uint64_t cluster, uint64_t references) { set(cluster, of(cluster) + references); }
  // What the entry of an active L2 table says of its cluster.
  enum class Flag : uint8_t { kNone, kCopied, kPlain };
  // `references` more for each of `count` clusters from `first` on, and the flag that goes with them.
  void add_run(uint64_t first, uint64_t count, uint64_t references, Flag flag = Flag::kNone);
  void set(uint64_t cluster, uint64_t references);
  uint64_t of(uint64_t cluster) const noexcept;
  // `first` is a multiple of kPerWord.
  Word word(uint64_t first) const noexcept;
  // One past the last cluster that was ever referenced.
  uint64_t end() const noexcept { return end_; }
  // The first clusters of all pieces, in order.
  std::vector<uint64_t> pieces() const;

 private:
  using Counts = std::array<uint8_t, kPerPiece>;
  struct Piece {
    std::array<Word, kPerPiece / kPerWord> words = {};
    std::unique_ptr<Counts> counts;  // of those with several references
  };
  static constexpr uint8_t kWide = UINT8_MAX;  // the count stands in wide_
  static constexpr uint64_t kWideBytes = 64;   // of memory for an element of wide_

  Piece* find(uint64_t cluster) const noexcept {
    const uint64_t key = cluster / kPerPiece;
    const Recent& recent = recent_[key % recent_.size()];
    return recent.key == key ? recent.piece : look_up(key);
  }
  Piece* look_up(uint64_t key) const noexcept;
  Piece& piece_for(uint64_t cluster);
  void take_memory(uint64_t bytes);
  void set_several(Piece& piece, uint64_t cluster, uint64_t references);
  template <typename F>
  static void for_each_word(uint64_t first, uint64_t count, F&& visit);

  std::string name_;
  uint64_t most_bytes_;
  uint64_t bytes_ = 0;
  uint64_t end_ = 0;
  std::unordered_map<uint64_t, std::unique_ptr<Piece>> pieces_;
  std::unordered_map<uint64_t, uint64_t> wide_;
  struct Recent {
    uint64_t key = UINT64_MAX;
    Piece* piece = nullptr;
  };
  mutable std::array<Recent, 16> recent_;  // neighbours are asked for in turn
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
