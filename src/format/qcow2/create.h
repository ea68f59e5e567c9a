// Makes new qcow2 images.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "block/device.h"
#include "format/luks/luks1.h"
#include "format/qcow2/header.h"

namespace cofre::qcow2 {

enum class Preallocation { kOff, kMetadata, kFalloc, kFull };

struct CreateOptions {
  uint64_t size_bytes = 0;  // a multiple of 512
  uint32_t version = 3;
  uint32_t cluster_bits = 16;
  uint32_t refcount_order = 4;
  bool lazy_refcounts = false;
  bool extended_l2 = false;
  CompressionType compression_type = CompressionType::kDeflate;
  std::optional<std::string> backing_file;
  std::optional<std::string> backing_format;
  std::optional<std::string> data_file;  // its name; the caller creates the file itself
  bool data_file_raw = false;
  Preallocation preallocation = Preallocation::kOff;
  CryptMethod encryption = CryptMethod::kNone;
  luks::Luks1CreateOptions luks;  // for CryptMethod::kLuks
};

// Throws Error kInvalidArgument or kUnsupported for combinations that the format does not have, with the
// sentence a user of `create` should read. create_image() calls it first.
void validate(const CreateOptions& options);

// Writes an empty image to `file` (empty, growable). `passphrase` is needed for encryption luks, not stored
// for aes. preallocation other than off is applied by the caller through Image::preallocate().
// Gives the LUKS volume it made, if it did, so that the image can be opened without deriving the key again.
io::task<std::optional<luks::Luks1Volume>> create_image(block::Device& file, const CreateOptions& options,
                                                        ConstBytes passphrase);

}  // namespace cofre::qcow2
