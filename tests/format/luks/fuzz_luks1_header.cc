// Any bytes as a LUKS1 header: the decoder gives an Error, or a header that encodes and decodes to itself.
#include <array>
#include <cstdlib>

#include "base/error.h"
#include "format/luks/luks1_header.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace cofre;
  if (size < sizeof(uint32_t)) return 0;
  const uint64_t area_bytes = uint64_t{load_be<uint32_t>(data)} * 16;
  const ConstBytes bytes(reinterpret_cast<const std::byte*>(data) + sizeof(uint32_t),
                         size - sizeof(uint32_t));
  try {
    const luks::Luks1Header header = luks::decode_luks1_header(bytes, area_bytes, "fuzz");
    std::array<std::byte, luks::kLuks1HeaderBytes> again;
    luks::encode_luks1_header(header, again);
    if (!(luks::decode_luks1_header(again, area_bytes, "fuzz") == header)) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
