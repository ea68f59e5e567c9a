// libFuzzer target: any bytes as a qcow2 image, opened, read, checked, repaired and written.
#include "hostile.h"

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  cofre::qcow2::try_everything({bytes, bytes + size}, 1);
  return 0;
}
