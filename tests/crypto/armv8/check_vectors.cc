// Checks the kernels of the architecture it is compiled for against a file of runs encrypted by OpenSSL
// (vectors.h). Needs no library, so that it can be compiled and emulated where there is none for that
// architecture.
#include <cstdio>
#include <cstring>
#include <vector>

#include "crypto/aes/kernel.h"
#include "crypto/armv8/vectors.h"
#include "crypto/measure/limit.h"

namespace cofre::crypto {
namespace {

using Octets = std::vector<uint8_t>;

struct Vector {
  VectorHeader header;
  Octets key, tweak_key, plain_ivs, encrypted_ivs, plain, text;
};

bool get(FILE* file, Octets& into, size_t bytes) {
  into.resize(bytes);
  return std::fread(into.data(), 1, bytes, file) == bytes;
}

bool get(FILE* file, Vector& into) {
  VectorHeader& header = into.header;
  if (std::fread(&header, sizeof header, 1, file) != 1) return false;
  const size_t bytes = size_t{header.sectors} * header.sector_bytes;
  return get(file, into.key, header.key_bytes) && get(file, into.tweak_key, header.key_bytes) &&
         get(file, into.plain_ivs, 16 * size_t{header.sectors}) &&
         get(file, into.encrypted_ivs, 16 * size_t{header.sectors}) && get(file, into.plain, bytes) &&
         get(file, into.text, bytes);
}

// Text between bytes that must stay as they are.
class Guarded {
 public:
  explicit Guarded(const Octets& text) : bytes_(text.size() + 2 * kGuard, 0xa5) {
    std::memcpy(data(), text.data(), text.size());
  }
  uint8_t* data() { return bytes_.data() + kGuard; }
  bool holds(const Octets& text) {
    bool whole = std::memcmp(data(), text.data(), text.size()) == 0;
    for (size_t i = 0; i < kGuard; ++i) whole = whole && bytes_[i] == 0xa5 && bytes_.end()[-1 - i] == 0xa5;
    return whole;
  }

 private:
  static constexpr size_t kGuard = 65;  // odd: no alignment helps
  std::vector<uint8_t> bytes_;
};

struct Schedule {
  alignas(64) uint8_t bytes[kMaxAesScheduleBytes];
  Schedule(const AesKernel& kernel, const Octets& key) { kernel.expand_key(key.data(), key.size(), bytes); }
};

bool ivs_agree(const AesKernel& kernel, const Vector& vector) {
  const Schedule schedule(kernel, vector.tweak_key);
  Guarded ivs(vector.plain_ivs);
  kernel.encrypt_blocks(schedule.bytes, ivs.data(), ivs.data(), vector.header.sectors);
  return ivs.holds(vector.encrypted_ivs);
}

bool run_agrees(const AesKernel& kernel, const Vector& vector, bool encrypt, bool in_place) {
  const bool xts = vector.header.is_xts != 0;
  const Octets& from = encrypt ? vector.plain : vector.text;
  const Octets& to = encrypt ? vector.text : vector.plain;
  const Schedule schedule(kernel, vector.key);
  Guarded source(from);
  Guarded destination(Octets(from.size(), 0));
  uint8_t* const out = in_place ? source.data() : destination.data();
  const uint8_t* const ivs = xts ? vector.encrypted_ivs.data() : vector.plain_ivs.data();
  const AesRun run = {source.data(), out, ivs, vector.header.sectors, vector.header.sector_bytes};
  const uint64_t before = kernel.sectors_done();
  if (encrypt)
    (xts ? kernel.xts_encrypt : kernel.cbc_encrypt)(schedule.bytes, run);
  else
    (xts ? kernel.xts_decrypt : kernel.cbc_decrypt)(schedule.bytes, run);
  if (kernel.sectors_done() != before + vector.header.sectors) return false;
  return in_place ? source.holds(to) : source.holds(from) && destination.holds(to);
}

bool agrees(const AesKernel& kernel, const Vector& vector) {
  return ivs_agree(kernel, vector) && run_agrees(kernel, vector, true, false) &&
         run_agrees(kernel, vector, true, true) && run_agrees(kernel, vector, false, false) &&
         run_agrees(kernel, vector, false, true);
}

// That a wrong byte anywhere would be seen.
bool finds_a_fault(const AesKernel& kernel, Vector vector) {
  vector.text.back() ^= 1;
  return !agrees(kernel, vector);
}

bool check(const AesKernel& kernel, FILE* file) {
  std::rewind(file);
  Vector vector;
  size_t checked = 0;
  for (; get(file, vector); ++checked) {
    const VectorHeader& header = vector.header;
    if (agrees(kernel, vector) && finds_a_fault(kernel, vector)) continue;
    std::printf("%s is wrong: %s, %u-byte key, %u sectors of %u bytes\n", kernel.name.data(),
                header.is_xts != 0 ? "XTS" : "CBC", header.key_bytes, header.sectors, header.sector_bytes);
    return false;
  }
  std::printf("%s: %zu runs agree with OpenSSL\n", kernel.name.data(), checked);
  return checked > 100;
}

}  // namespace
}  // namespace cofre::crypto

int main(int argc, char** argv) {
  using namespace cofre::crypto;
  std::FILE* const file = argc == 2 ? std::fopen(argv[1], "rb") : nullptr;
  if (file == nullptr) return 2;
  const AesKernel& native = kAesArmv8;
  if (!has_all(cpu_features(), native.needs)) {
    std::printf("no %s: the processor lacks %s\n", native.name.data(),
                missing_features(cpu_features(), native.needs).c_str());
    return 1;
  }
  constexpr size_t kBytes = 100000;
  const bool limit_runs = run_aes_instructions(native.register_bytes, 14, kBytes) >= kBytes;
  const bool good = check(native, file) && check(kAesPortable, file) && limit_runs;
  std::fclose(file);
  return good ? 0 : 1;
}
