#include "format/qcow2/check_counts.h"

#include <algorithm>

#include "base/error.h"

namespace cofre::qcow2 {

const ReferenceCounts::Piece* ReferenceCounts::find(uint64_t cluster) const noexcept {
  const uint64_t key = cluster / kPerPiece;
  if (key == last_key_) return last_piece_;
  const auto at = pieces_.find(key);
  if (at == pieces_.end()) return nullptr;
  last_key_ = key;
  last_piece_ = at->second.get();
  return last_piece_;
}

ReferenceCounts::Piece& ReferenceCounts::piece_for(uint64_t cluster) {
  if (find(cluster) != nullptr) return *last_piece_;
  if ((pieces_.size() + 1) * sizeof(Piece) > most_bytes_)
    fail(ErrorKind::kLimit,
         "'{}': to check it would need more than {} MiB of memory, more than the size of the file explains; "
         "its "
         "tables are damaged",
         name_, most_bytes_ >> 20);
  const uint64_t key = cluster / kPerPiece;
  last_piece_ = pieces_.emplace(key, std::make_unique<Piece>()).first->second.get();
  last_key_ = key;
  return *last_piece_;
}

void ReferenceCounts::set(uint64_t cluster, uint64_t references) {
  uint16_t& counter = piece_for(cluster)[cluster % kPerPiece];
  if (counter == kWide) wide_.erase(cluster);
  counter = static_cast<uint16_t>(std::min<uint64_t>(references, kWide));
  if (counter == kWide) wide_[cluster] = references;
  end_ = std::max(end_, cluster + 1);
}

uint64_t ReferenceCounts::of(uint64_t cluster) const noexcept {
  const Piece* piece = find(cluster);
  if (piece == nullptr) return 0;
  const uint16_t counter = (*piece)[cluster % kPerPiece];
  return counter == kWide ? wide_.find(cluster)->second : counter;
}

std::vector<uint64_t> ReferenceCounts::pieces() const {
  std::vector<uint64_t> firsts;
  firsts.reserve(pieces_.size());
  for (const auto& [key, piece] : pieces_) firsts.push_back(key * kPerPiece);
  std::ranges::sort(firsts);
  return firsts;
}

std::vector<RangeSum::Range> RangeSum::sum() const {
  std::vector<std::pair<uint64_t, uint64_t>> edges = edges_;
  std::ranges::sort(edges);
  std::vector<Range> ranges;
  uint64_t weight = 0;
  for (size_t i = 0; i < edges.size(); ++i) {
    weight += edges[i].second;
    if (weight == 0 || i + 1 == edges.size() || edges[i].first == edges[i + 1].first) continue;
    ranges.push_back({edges[i].first, edges[i + 1].first, weight});
  }
  return ranges;
}

}  // namespace cofre::qcow2
