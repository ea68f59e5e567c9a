// What is right and wrong with a LUKS1 header's choices. Any lane.
#pragma once

#include <cstdint>
#include <string>

#include "doctor/finding.h"
#include "format/luks/luks1_header.h"

namespace cofre::doctor {

// What one unlock costs here. Derivations run at `iterations_per_second` for the header's hash and key
// length; 0: not measured.
struct UnlockCost {
  double iterations_per_second = 0;

  // Deriving the key of a keyslot and the digest that proves it; 0 when not measured.
  double keyslot_ms(const luks::Luks1Header& header, size_t keyslot) const noexcept;
};

// Takes some tenths of a second.
UnlockCost measure_unlock_cost(const luks::Luks1Header& header);

// PBKDF2 iterations below which a passphrase that people can remember is guessed too cheaply (OWASP Password
// Storage Cheat Sheet, PBKDF2; hashes that it does not name count as the next weaker one).
uint32_t least_iterations(crypto::DigestAlgorithm hash) noexcept;

// `encrypted_bytes`: how far sector numbers go.
void judge_luks(const luks::Luks1Header& header, const UnlockCost& cost, uint64_t encrypted_bytes,
                const std::string& subject, Section& section);

}  // namespace cofre::doctor
