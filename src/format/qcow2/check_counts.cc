#include "format/qcow2/check_counts.h"

#include <algorithm>

#include "base/error.h"

namespace cofre::qcow2 {

ReferenceCounts::Piece* ReferenceCounts::look_up(uint64_t key) const noexcept {
  const auto at = pieces_.find(key);
  if (at == pieces_.end()) return nullptr;
  recent_[key % recent_.size()] = {key, at->second.get()};
  return at->second.get();
}

void ReferenceCounts::take_memory(uint64_t bytes) {
  if (bytes_ + bytes > most_bytes_)
    fail(ErrorKind::kLimit,
         "'{}': to check it would need more than {} MiB of memory, more than the size of the file explains; "
         "its tables are damaged",
         name_, most_bytes_ >> 20);
  bytes_ += bytes;
}

ReferenceCounts::Piece& ReferenceCounts::piece_for(uint64_t cluster) {
  if (Piece* const piece = find(cluster)) return *piece;
  take_memory(sizeof(Piece));
  const uint64_t key = cluster / kPerPiece;
  Piece* const piece = pieces_.emplace(key, std::make_unique<Piece>()).first->second.get();
  recent_[key % recent_.size()] = {key, piece};
  return *piece;
}

// Calls visit(a cluster of the word, mask of its bits) for the words that the range touches.
template <typename F>
void ReferenceCounts::for_each_word(uint64_t first, uint64_t count, F&& visit) {
  const uint64_t end = first + count;
  while (first < end) {
    const uint64_t bit = first % kPerWord;
    const uint64_t length = std::min(kPerWord - bit, end - first);
    visit(first, (length == kPerWord ? ~uint64_t{0} : (uint64_t{1} << length) - 1) << bit);
    first += length;
  }
}

void ReferenceCounts::add_run(uint64_t first, uint64_t count, uint64_t references, Flag flag) {
  if (references == 0) return;
  for_each_word(first, count, [&](uint64_t cluster, uint64_t mask) {
    Word& word = piece_for(cluster).words[cluster % kPerPiece / kPerWord];
    if (flag == Flag::kCopied) word.copied |= mask;
    if (flag == Flag::kPlain) word.plain |= mask;
    if (references == 1 && (word.referenced & mask) == 0) {
      word.referenced |= mask;
      return;
    }
    for (; mask != 0; mask &= mask - 1)
      add(cluster / kPerWord * kPerWord + static_cast<unsigned>(std::countr_zero(mask)), references);
  });
  end_ = std::max(end_, first + count);
}

void ReferenceCounts::set_several(Piece& piece, uint64_t cluster, uint64_t references) {
  if (!piece.counts) {
    take_memory(sizeof(Counts));
    piece.counts = std::make_unique<Counts>();
  }
  uint8_t& counter = (*piece.counts)[cluster % kPerPiece];
  if (references >= kWide) {
    if (!wide_.contains(cluster)) take_memory(kWideBytes);
    wide_[cluster] = references;
  }
  counter = static_cast<uint8_t>(std::min<uint64_t>(references, kWide));
}

void ReferenceCounts::set(uint64_t cluster, uint64_t references) {
  Piece& piece = piece_for(cluster);
  Word& word = piece.words[cluster % kPerPiece / kPerWord];
  const uint64_t bit = uint64_t{1} << cluster % kPerWord;
  if (references >= 2) set_several(piece, cluster, references);
  word.referenced = references >= 1 ? word.referenced | bit : word.referenced & ~bit;
  word.several = references >= 2 ? word.several | bit : word.several & ~bit;
  end_ = std::max(end_, cluster + 1);
}

uint64_t ReferenceCounts::of(uint64_t cluster) const noexcept {
  const Piece* const piece = find(cluster);
  if (piece == nullptr) return 0;
  const Word& word = piece->words[cluster % kPerPiece / kPerWord];
  const uint64_t bit = uint64_t{1} << cluster % kPerWord;
  if ((word.several & bit) == 0) return (word.referenced & bit) != 0 ? 1 : 0;
  const uint8_t counter = (*piece->counts)[cluster % kPerPiece];
  return counter == kWide ? wide_.find(cluster)->second : counter;
}

ReferenceCounts::Word ReferenceCounts::word(uint64_t first) const noexcept {
  const Piece* const piece = find(first);
  return piece == nullptr ? Word{} : piece->words[first % kPerPiece / kPerWord];
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
