#include "witness/mappings.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <sstream>

#include "base/checked.h"
#include "base/units.h"

namespace cofre::witness {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kLowest = kMiB;  // below it the kernel forbids (vm.mmap_min_addr)
constexpr uint64_t kReach = 2 * kGiB - 16 * kMiB;

uint64_t hexadecimal(std::string_view text) {
  uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return value;
}

// "7f..-7f.. r-xp 00001000 fe:00 1234   /path with blanks"
Mapping parse_line(const std::string& line) {
  Mapping mapping;
  std::istringstream words(line);
  std::string range, rights, offset;
  words >> range >> rights >> offset >> mapping.device >> mapping.inode;
  const size_t dash = range.find('-');
  if (dash == std::string::npos) return mapping;
  mapping.start = hexadecimal(std::string_view(range).substr(0, dash));
  mapping.end = hexadecimal(std::string_view(range).substr(dash + 1));
  mapping.executable = rights.size() > 2 && rights[2] == 'x';
  mapping.is_private = rights.size() > 3 && rights[3] == 'p';
  mapping.file_offset = hexadecimal(offset);
  std::getline(words >> std::ws, mapping.path);
  return mapping;
}

}  // namespace

std::vector<Mapping> parse_mappings(const std::string& text) {
  std::vector<Mapping> mappings;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    Mapping mapping = parse_line(line);
    if (mapping.end > mapping.start) mappings.push_back(std::move(mapping));
  }
  return mappings;
}

uint64_t free_place(const std::vector<Mapping>& mappings, uint64_t start, uint64_t end,
                    uint64_t length_bytes) {
  const uint64_t lowest = std::max(kLowest, end > kReach ? align_up(end - kReach, kPage) : 0);
  const uint64_t highest = start > std::numeric_limits<int64_t>::max() - kReach ? start : start + kReach;
  uint64_t best = 0;
  uint64_t gap_start = lowest;
  const auto consider = [&](uint64_t gap_end) {
    gap_end = std::min(gap_end, highest);
    // The upper end of a gap, with a page to spare: what grows upwards (the heap) comes there last. The
    // gap just below wins, later ones only when there is none.
    if (gap_end < gap_start || gap_end - gap_start < length_bytes + 2 * kPage) return;
    if (gap_end <= start || best == 0) best = gap_end - kPage - length_bytes;
  };
  for (const Mapping& mapping : mappings) {
    if (mapping.start >= highest) break;
    consider(mapping.start);
    gap_start = std::max(gap_start, mapping.end);
  }
  return best;
}

}  // namespace cofre::witness
