// Kinds of findings, and how they are gathered.
#include "job/audit.h"

namespace cofre::job {
namespace {

struct KindText {
  std::string_view id;
  std::string_view sentence;
  std::string_view remedy;
  bool note;
  bool fixable;
};

constexpr std::array<KindText, kAuditKinds> kTexts = {{
    {"plain-image", "the image is not encrypted: all that it holds is plain text",
     "convert it to an encrypted image, and rebase what stands over it: cofre convert -O qcow2 -o "
     "encrypt.format=luks; cofre rebase -u -b NEW -F qcow2",
     false, false},
    {"compressed-cluster", "compressed clusters, which are never encrypted",
     "cofre audit --fix writes them encrypted", false, true},
    {"compressed-snapshot", "compressed clusters of snapshots, which are never encrypted",
     "keep the snapshot's content elsewhere (cofre convert -l), delete the snapshot, then cofre audit --fix",
     false, false},
    {"plain-data", "clusters of the disk that hold plain text; the guest reads noise there",
     "find out who wrote past the encryption; restore these clusters from a copy, or overwrite them", false,
     false},
    {"plain-snapshot", "clusters of snapshots that hold plain text",
     "delete the snapshot, then cofre audit --fix", false, false},
    {"plain-reserved", "plain text behind clusters that read as zero", "cofre audit --fix wipes it", false,
     true},
    {"plain-free", "plain text in clusters that are not in use", "cofre audit --fix wipes it", false, true},
    {"plain-leaked", "plain text in leaked clusters", "cofre audit --fix frees and wipes them", false, true},
    {"plain-tail", "plain text behind the last cluster in use", "cofre audit --fix wipes it", false, true},
    {"plain-slack", "plain text behind metadata, in its last cluster", "cofre audit --fix wipes it", false,
     true},
    {"plain-key-area", "plain text in the encryption header",
     "cofre audit --fix wipes it, except in a keyslot in use", false, true},
    {"keyslot-not-erased",
     "a disabled keyslot keeps its salt and material: its old passphrase may still open the image for "
     "whoever "
     "knows it",
     "cofre audit --fix overwrites it", false, true},
    {"zero-data", "clusters of the disk that are zeros in the file, never written: it shows which",
     "convert the image to a new one if that matters", true, false},
    {"repeated-sectors",
     "the same cipher text at several places: the same bytes were encrypted under the same number, or copied",
     "with the method aes, copies that snapshots or freed clusters keep; else convert the image to a new one",
     true, false},
    {"repeated-blocks", "the same 16 bytes several times within sectors: a mode without chaining",
     "convert the image to a new one with aes-256 in xts mode", true, false},
    {"weak-mode", "the cipher mode is ECB: equal plain text shows as equal cipher text",
     "convert the image to a new one with aes-256 in xts mode", true, false},
}};

const KindText& text_of(AuditKind kind) noexcept {
  return kTexts[static_cast<size_t>(kind)];
}

}  // namespace

std::string_view audit_id(AuditKind kind) noexcept {
  return text_of(kind).id;
}
std::string_view audit_sentence(AuditKind kind) noexcept {
  return text_of(kind).sentence;
}
std::string_view audit_remedy(AuditKind kind) noexcept {
  return text_of(kind).remedy;
}
bool is_note(AuditKind kind) noexcept {
  return text_of(kind).note;
}
bool is_fixable(AuditKind kind) noexcept {
  return text_of(kind).fixable;
}

void AuditReport::add(AuditFinding finding) {
  AuditTotal& total = totals_[static_cast<size_t>(finding.kind)];
  size_t& last = last_[static_cast<size_t>(finding.kind)];
  total.bytes += finding.length_bytes;
  if (last != 0) {
    AuditFinding& before = findings_[last - 1];
    if (before.file == finding.file && before.detail == finding.detail && before.look == finding.look &&
        before.offset + before.length_bytes == finding.offset) {
      before.length_bytes += finding.length_bytes;
      return;
    }
  }
  if (++total.ranges > kMostListed) return;
  findings_.push_back(std::move(finding));
  last = findings_.size();
}

bool AuditReport::has_plain() const noexcept {
  for (size_t kind = 0; kind < kAuditKinds; ++kind)
    if (totals_[kind].ranges != 0 && !kTexts[kind].note) return true;
  return false;
}

bool AuditReport::has_notes() const noexcept {
  for (size_t kind = 0; kind < kAuditKinds; ++kind)
    if (totals_[kind].ranges != 0 && kTexts[kind].note) return true;
  return false;
}

}  // namespace cofre::job
