#include "doctor/luks_findings.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/units.h"
#include "crypto/kdf.h"

namespace cofre::doctor {
namespace {

using crypto::CipherMode;
using crypto::DigestAlgorithm;
using crypto::IvGenerator;

// Sector numbers of 32 bits end here.
constexpr uint64_t kPlainIvLimitBytes = (uint64_t{1} << 32) * kSectorBytes;
// Longer than anybody means to wait: a header that was made on a much faster machine, or to annoy.
constexpr double kSlowUnlockMs = 15'000;

constexpr std::string_view kReencrypt = "Convert it into a new image with the default cipher: cofre convert";

size_t active_keyslots(const luks::Luks1Header& header) {
  return static_cast<size_t>(std::ranges::count(header.keyslots, true, &luks::Luks1Keyslot::active));
}

void judge_cipher(const luks::Luks1Header& header, uint64_t encrypted_bytes, const std::string& subject,
                  Section& section) {
  const crypto::CipherSpec& cipher = header.cipher;
  const bool plain = cipher.iv == IvGenerator::plain || cipher.iv == IvGenerator::plain64;
  if (cipher.mode == CipherMode::ecb)
    section.attention("luks-ecb",
                      "mode ecb: equal blocks of the disk are equal blocks in the file, so its content shows "
                      "through",
                      std::string(kReencrypt), subject);
  if (cipher.mode == CipherMode::ctr)
    section.attention(
        "luks-ctr",
        "mode ctr: a sector that was written twice was encrypted with the same key stream, so two "
        "copies of the file give its content away",
        std::string(kReencrypt), subject);
  if (cipher.mode == CipherMode::cbc && plain)
    section.attention(
        "luks-predictable-iv",
        fmt::format("mode cbc with {} IVs: they can be foretold, so whoever may write to the disk "
                    "can leave marks that show in the file (watermarking)",
                    iv_generator_name(cipher.iv)),
        std::string(kReencrypt), subject);
  if (cipher.iv == IvGenerator::plain && encrypted_bytes > kPlainIvLimitBytes)
    section.attention("luks-plain-wraps",
                      "IVs of 32 bits (plain) on more than 2 TiB: sectors 2 TiB apart share their IV",
                      "Convert it into a new image with plain64 (the default): cofre convert", subject);
  if (cipher.block_bytes() < 16)
    section.attention(
        "luks-small-block",
        fmt::format("the cipher {} has blocks of 64 bits: among some GiB equal blocks are to be "
                    "expected, and each tells something",
                    cipher.to_string()),
        std::string(kReencrypt), subject);
}

void judge_iterations(const luks::Luks1Header& header, const UnlockCost& cost, const std::string& subject,
                      Section& section) {
  const uint32_t least = least_iterations(header.hash);
  for (size_t i = 0; i < header.keyslots.size(); ++i) {
    const luks::Luks1Keyslot& slot = header.keyslots[i];
    if (!slot.active) continue;
    if (slot.iterations < least)
      section.attention(
          "luks-few-iterations",
          fmt::format(
              "keyslot {} has {} iterations of PBKDF2 with {}; a passphrase that people remember needs "
              "{} or more",
              i, slot.iterations, digest_name(header.hash), least),
          "Set the passphrase anew (cofre amend --change-passphrase IMAGE), or use a random one of 16 bytes "
          "or more",
          subject);
    if (const double ms = cost.keyslot_ms(header, i); ms > kSlowUnlockMs)
      section.note("luks-slow-unlock",
                   fmt::format("keyslot {} asks for {} iterations: unlocking it takes {:.0f} s on this host",
                               i, slot.iterations, ms / 1000),
                   {}, subject);
  }
}

void judge_keyslots(const luks::Luks1Header& header, const UnlockCost& cost, const std::string& subject,
                    Section& section) {
  const size_t active = active_keyslots(header);
  if (active == 0) {
    section.attention("luks-no-keyslot", "no keyslot is active: no passphrase opens it any more",
                      "Restore the header from a backup, if there is one", subject);
    return;
  }
  const auto first = std::ranges::find(header.keyslots, true, &luks::Luks1Keyslot::active);
  const auto index = static_cast<size_t>(first - header.keyslots.begin());
  std::string sentence = fmt::format("{} of 8 keyslots in use; keyslot {}: {} iterations of PBKDF2 with {}",
                                     active, index, first->iterations, digest_name(header.hash));
  if (cost.iterations_per_second > 0)
    sentence += fmt::format(", about {:.0f} ms to unlock on this host", cost.keyslot_ms(header, index));
  section.ok("luks-keyslots", sentence, subject);
}

}  // namespace

double UnlockCost::keyslot_ms(const luks::Luks1Header& header, size_t keyslot) const noexcept {
  if (iterations_per_second == 0) return 0;
  // The digest is one block of PBKDF2's output, the key as many as cover it.
  const size_t digest = crypto::digest_bytes(header.hash);
  const double blocks = static_cast<double>((header.key_bytes() + digest - 1) / digest);
  const double iterations = header.keyslots[keyslot].iterations + header.volume_key_iterations / blocks;
  return 1000 * iterations / iterations_per_second;
}

UnlockCost measure_unlock_cost(const luks::Luks1Header& header) {
  return {static_cast<double>(
      crypto::pbkdf2_iterations_for(header.hash, header.key_bytes(), std::chrono::milliseconds(1000)))};
}

// OWASP's Password Storage Cheat Sheet, section PBKDF2, as of 2025: for HMAC with SHA-1, SHA-256 and SHA-512.
// It gives none for the others: those that are as cheap to compute as one of the three get its number.
uint32_t least_iterations(DigestAlgorithm hash) noexcept {
  switch (hash) {
    case DigestAlgorithm::sha384:
    case DigestAlgorithm::sha512:
      return 220'000;
    case DigestAlgorithm::sha224:
    case DigestAlgorithm::sha256:
      return 600'000;
    case DigestAlgorithm::md5:
    case DigestAlgorithm::sha1:
    case DigestAlgorithm::ripemd160:
      break;
  }
  return 1'400'000;
}

void judge_luks(const luks::Luks1Header& header, const UnlockCost& cost, uint64_t encrypted_bytes,
                const std::string& subject, Section& section) {
  judge_cipher(header, encrypted_bytes, subject, section);
  judge_keyslots(header, cost, subject, section);
  judge_iterations(header, cost, subject, section);
  if (header.hash == DigestAlgorithm::sha1)
    section.note("luks-sha1",
                 "the hash is sha1: not broken for this use, but cheaper to guess against than sha256", {},
                 subject);
}

}  // namespace cofre::doctor
