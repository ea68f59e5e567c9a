// What encryption missed: looks at every byte of the files of an image for what is not cipher text and ought
// to be, in the order of the files. Needs no key. docs/audit.md says how, and how sure it is.
//
// Memory: a byte a host cluster, a few MiB a lane, and kMostListed ranges a kind. Home lane; bytes are
// examined on all lanes. Throws Error as the image, and kCancelled.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "crypto/sector_look.h"
#include "image/open.h"
#include "io/lanes.h"
#include "job/progress.h"

namespace cofre::job {

enum class AuditKind : uint8_t {
  kPlainImage,          // an image of the chain is not encrypted at all
  kCompressedCluster,   // plain text by definition
  kCompressedSnapshot,  // the same, needed by snapshots only
  kPlainData,           // mapped by the disk's present state
  kPlainSnapshot,       // mapped by snapshots only
  kPlainReserved,       // behind a cluster that reads as zero
  kPlainFree,           // in clusters that are not in use
  kPlainLeaked,         // in clusters that nothing refers to, but whose refcount is not zero
  kPlainTail,           // behind the last cluster in use
  kPlainSlack,          // behind metadata, in its last cluster
  kPlainKeyArea,        // in the encryption header, where keys or nothing should be
  kKeyslotNotErased,    // a disabled keyslot keeps what opens it
  kZeroData,            // note: mapped clusters that were never written
  kRepeatedSectors,     // note: the same cipher text at several places
  kRepeatedBlocks,      // note: the same 16 bytes several times in a sector
  kWeakMode,            // note: ECB
};
inline constexpr size_t kAuditKinds = 16;

// "plain-free"; stays the same from version to version.
std::string_view audit_id(AuditKind kind) noexcept;
// "plain text in clusters that are not in use".
std::string_view audit_sentence(AuditKind kind) noexcept;
// What to do about it.
std::string_view audit_remedy(AuditKind kind) noexcept;
// Worth knowing, but nothing of the guest's can be read.
bool is_note(AuditKind kind) noexcept;
// Whether `--fix` can do something about it.
bool is_fixable(AuditKind kind) noexcept;

struct AuditFinding {
  AuditKind kind;
  std::string file;
  uint64_t offset = 0;
  uint64_t length_bytes = 0;
  // What gave it away; kZero: it is known without looking ("by definition"), or is nothing but zeros.
  crypto::Look look = crypto::Look::kZero;
  std::string detail = {};  // "behind the L1 table", "keyslot 3"
};

struct AuditTotal {
  uint64_t ranges = 0;
  uint64_t bytes = 0;
};

// Of each kind the first kMostListed ranges are listed; all are counted.
class AuditReport {
 public:
  static constexpr size_t kMostListed = 1000;

  // Joins what adjoins the last one of its kind.
  void add(AuditFinding finding);
  const std::vector<AuditFinding>& findings() const noexcept { return findings_; }
  const AuditTotal& total(AuditKind kind) const noexcept { return totals_[static_cast<size_t>(kind)]; }
  bool has(AuditKind kind) const noexcept { return total(kind).ranges != 0; }
  bool has_plain() const noexcept;
  bool has_notes() const noexcept;

  uint64_t bytes_examined = 0;
  uint64_t broken_references = 0;  // what lies behind them was taken for unused

 private:
  std::vector<AuditFinding> findings_;
  std::array<AuditTotal, kAuditKinds> totals_ = {};
  std::array<size_t, kAuditKinds> last_ = {};  // 1 + index in findings_
};

io::task<AuditReport> audit(image::OpenedImage& image, const Progress& progress, io::Lanes& lanes);

struct AuditFixes {
  uint64_t bytes_encrypted = 0;  // of compressed clusters, written again
  uint64_t bytes_wiped = 0;
  uint64_t keyslots_wiped = 0;
};
// Writes the compressed clusters of the top image's present state again, which encrypts them. The image is
// open for writing, with its key. As crash-safe as a guest's writes.
io::task<void> encrypt_compressed(image::OpenedImage& image, const Progress& progress, AuditFixes& fixes);
// Wipes what nobody reads in the files of the top image, whatever it looks like: clusters that are not in use
// (their space goes back to the host), those behind zero clusters, the rest behind metadata; and the material
// of disabled keyslots that were not erased. The image is open for writing (for_check), sound and without
// leaks. Changes no byte that anybody reads, so a crash at any moment does no harm; durable when it returns.
io::task<void> wipe_unused(image::OpenedImage& image, const Progress& progress, AuditFixes& fixes);

}  // namespace cofre::job
