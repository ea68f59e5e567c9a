// An image and what it stands on: how each layer is encrypted, and what is wrong with it. Home lane.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "doctor/finding.h"
#include "doctor/luks_findings.h"
#include "doctor/read_speed.h"
#include "image/open.h"

namespace cofre::doctor {

struct Qcow2Facts {
  uint64_t cluster_bytes = 0;
  uint64_t l2_entry_bytes = 8;
  bool dirty = false;
  bool corrupt = false;
  uint64_t compressed_bytes = 0;  // of the guest, in clusters stored compressed; counted when encrypted
  std::string map_error;          // why that could not be counted to the end
  size_t snapshots = 0;
};

enum class Encryption { kNone, kLegacyAes, kLuks };

struct LayerFacts {
  std::string path;
  image::Format format = image::Format::kRaw;
  uint64_t virtual_bytes = 0;
  uint64_t file_bytes = 0;
  Encryption encryption = Encryption::kNone;
  std::optional<luks::Luks1Header> luks;
  UnlockCost unlock;
  std::optional<Qcow2Facts> qcow2;
  std::optional<std::string> backing_file;  // as the header names it
  std::optional<std::string> backing_format;
  bool starts_like_luks2 = false;  // raw: by the first bytes

  bool encrypted() const noexcept { return encryption != Encryption::kNone; }
};

struct ImageFacts {
  std::string name;
  std::vector<LayerFacts> layers;  // the top first
  std::string backing_error;       // why the chain could not be followed to its end
  std::optional<ReadSpeed> read_speed;
  bool lacks_passphrase = false;  // or the speed of reading would have been measured
};

struct ImageQuestions {
  bool force_share = false;
  bool measure = true;                // what takes time: key derivation, reading
  image::Secrets* secrets = nullptr;  // null: no passphrase was given; outlives the call
  std::function<bool()> cancelled = nullptr;
};

// Throws what opening the top throws; a fault below it is a fact. kWrongSecret, kMissingSecret when measuring
// with secrets that do not open the chain; kCancelled.
io::task<ImageFacts> look_at_image(image::ImageName name, ImageQuestions questions);

Section examine_image(const ImageFacts& facts);

}  // namespace cofre::doctor
