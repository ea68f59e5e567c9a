// A library that the watched program loads late, and unloads again.
#include <cstdint>

extern "C" void chain(void* block, uint64_t rounds);

extern "C" void library_chain(void* block, uint64_t rounds) {
  chain(block, rounds);
}
