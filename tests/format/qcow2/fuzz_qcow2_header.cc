// libFuzzer target: the header codec. What decodes encodes again, and then decodes to the same.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "format/qcow2/header.h"

namespace {

void round_trip(cofre::ConstBytes bytes) {
  using namespace cofre::qcow2;
  const Header header = decode_header(bytes, uint64_t{1} << 40, "fuzz");
  const std::vector<std::byte> encoded = encode_header(header);  // may find that it does not fit any more
  const Header again = decode_header(encoded, uint64_t{1} << 40, "fuzz");
  if (encode_header(again) != encoded) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    round_trip({reinterpret_cast<const std::byte*>(data), size});
  } catch (const cofre::Error&) {
    // the sentence that a damaged header gets
  }
  return 0;
}
