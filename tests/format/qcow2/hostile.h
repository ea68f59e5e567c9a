// Images that lie: opens whatever the bytes are, reads, maps, checks, repairs and writes them. Nothing but
// cofre::Error may come of it, and an image that repair calls sound must be so. Shared by the random test and
// the fuzzer.
#pragma once

#include <cstdint>
#include <vector>

namespace cofre::qcow2 {

void try_everything(const std::vector<std::byte>& bytes, uint64_t seed);

}  // namespace cofre::qcow2
