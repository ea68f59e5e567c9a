#include "format/qcow2/header_end.h"

#include <algorithm>

#include "base/checked.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kVersion2Bytes = 72;
constexpr uint64_t kHeaderLengthAt = 100;

uint64_t extensions_end(ConstBytes cluster, uint64_t at) {
  while (at + 8 <= cluster.size()) {
    const uint32_t type = load_be<uint32_t>(cluster.data() + at);
    const uint64_t length = load_be<uint32_t>(cluster.data() + at + 4);
    at += 8;
    if (type == 0) break;
    at = align_up<uint64_t>(at + length, 8);
  }
  return std::min<uint64_t>(at, cluster.size());
}

}  // namespace

std::vector<ByteRange> unused_header_bytes(ConstBytes cluster) {
  const bool version2 = load_be<uint32_t>(cluster.data() + 4) == 2;
  const uint64_t header = version2 ? kVersion2Bytes : load_be<uint32_t>(cluster.data() + kHeaderLengthAt);
  const uint64_t end = extensions_end(cluster, std::min<uint64_t>(header, cluster.size()));
  const uint64_t name = load_be<uint64_t>(cluster.data() + 8);
  const uint64_t name_bytes = load_be<uint32_t>(cluster.data() + 16);
  std::vector<ByteRange> unused;
  const auto add = [&](uint64_t from, uint64_t to) {
    if (from < to) unused.push_back({from, to});
  };
  if (name == 0 || !range_within(name, name_bytes, cluster.size())) {
    add(end, cluster.size());
    return unused;
  }
  add(end, name);
  add(std::max(end, name + name_bytes), cluster.size());
  return unused;
}

}  // namespace cofre::qcow2
