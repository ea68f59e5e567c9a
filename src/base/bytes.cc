#include "base/bytes.h"

namespace cofre {

bool is_zero(ConstBytes bytes) noexcept {
  const std::byte* p = bytes.data();
  size_t left = bytes.size();
  // The common "not zero" answer costs one load.
  if (left >= 8 && (load_native<uint64_t>(p) | load_native<uint64_t>(p + left - 8)) != 0) return false;
  constexpr size_t kBlock = 256;
  while (left >= kBlock) {
    uint64_t any = 0;
    for (size_t i = 0; i < kBlock; i += 8)
      any |= load_native<uint64_t>(p + i);  // the compiler vectorizes this
    if (any != 0) return false;
    p += kBlock;
    left -= kBlock;
  }
  uint64_t any = 0;
  for (; left >= 8; p += 8, left -= 8) any |= load_native<uint64_t>(p);
  for (; left > 0; ++p, --left) any |= std::to_integer<uint64_t>(*p);
  return any == 0;
}

}  // namespace cofre
