// A raw LUKS1 container as a Device: the header, then the payload, whose sectors count from 0 at the
// payload's start. The header may be in a file of its own (detached): the payload begins in its storage where
// the header says then, most often at 0.
//
// It has no metadata that changes while it is open, so it has no home lane: any lane reads and writes it, and
// the storage below may move itself. Volume key and cipher are the container's own and go away with it.
//
// Where it differs from a plain file:
//   * Bytes that were never written are what the zeroes of a sparse file decrypt to: noise, as with QEMU.
//     resize() keeps the contract and writes encrypted zeroes; resize_sparse() does what qemu-img resize
//     does.
//   * discard() does nothing: what it would leave behind reads as noise, and shows where data is.
//   * A storage that ends within a sector (qemu-img makes such files for odd sizes) counts as ending with it.
#pragma once

#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "block/device.h"
#include "crypto/sector_cipher.h"
#include "format/luks/luks1.h"

namespace cofre::luks {

class LuksContainer final : public block::Device {
 public:
  // Opens with a passphrase. Throws as luks1_unlock does; kUnsupported when the storage's alignment does not
  // fit the payload's, or the header is a detached one without its payload; kCorrupt when the payload would
  // start beyond the storage's end.
  static io::task<std::unique_ptr<LuksContainer>> open(std::unique_ptr<block::Device> storage,
                                                       ConstBytes passphrase, bool read_only,
                                                       std::stop_token stop = {});
  // Opens with the volume key that whoever made or unlocked the volume still holds: no key derivation.
  static io::task<std::unique_ptr<LuksContainer>> open(std::unique_ptr<block::Device> storage,
                                                       const Luks1Volume& volume, bool read_only,
                                                       std::unique_ptr<block::Device> header_storage = {});
  // Opens without a passphrase, to tell of the header and the size. Reads and writes throw kMissingSecret.
  // `header_storage`, here and above: where the header is, at offset 0, if that is not the storage.
  static io::task<std::unique_ptr<LuksContainer>> open_locked(
      std::unique_ptr<block::Device> storage, std::unique_ptr<block::Device> header_storage = {});
  // Makes a volume whose payload has `size_bytes`, rounded up to whole sectors: a growable storage is cut or
  // extended to fit, another one must be large enough. Only the header area is written. Of a detached header,
  // whose size_bytes is 0, there is nothing else.
  static io::task<Luks1Volume> format(block::Device& storage, Luks1CreateOptions options,
                                      ConstBytes passphrase, uint64_t size_bytes);
  // The same, and opens it for writing.
  static io::task<std::unique_ptr<LuksContainer>> create(std::unique_ptr<block::Device> storage,
                                                         Luks1CreateOptions options, ConstBytes passphrase,
                                                         uint64_t size_bytes);

  const std::string& name() const override { return storage_->name(); }
  const block::Limits& limits() const override { return limits_; }
  uint64_t length_bytes() const override;

  io::task<void> read(uint64_t offset, Bytes destination) override;
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags = {}) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags = {}) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;
  io::task<void> flush() override;
  // Everything is data: a hole in the storage is noise here.
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override;
  // Rounds up to whole sectors. Growing takes the time of writing the new bytes.
  io::task<void> resize(uint64_t length) override;
  io::task<void> close() override;
  std::optional<uint64_t> allocated_bytes() const override { return storage_->allocated_bytes(); }

  // As resize(), but new bytes are noise and take no time nor space.
  io::task<void> resize_sparse(uint64_t length);

  const Luks1Header& header() const noexcept { return header_; }
  // What holds the header, at offset 0. header() does not follow changes made there.
  block::Device& header_storage() const noexcept { return header_storage_ ? *header_storage_ : *storage_; }
  bool has_detached_header() const noexcept { return header_storage_ != nullptr; }
  bool locked() const noexcept { return cipher_ == nullptr; }
  // The keyslot that opened; nothing when locked.
  std::optional<size_t> keyslot() const noexcept { return keyslot_; }
  // "aes-256-xts-plain64 vaes512"; empty when locked.
  std::string_view cipher_implementation() const noexcept;

 private:
  struct Cursor;

  LuksContainer(std::unique_ptr<block::Device> storage, Luks1Header header, bool read_only);
  void unlock(const Luks1Volume& volume);
  void require_unlocked() const;
  void require_writable() const;
  io::task<void> end_on_sector(uint64_t end);

  io::task<void> read_chunk(uint64_t offset, Bytes destination);
  io::task<void> read_chunks(Cursor& cursor, Bytes destination);
  io::task<void> write_chunks(Cursor& cursor, const std::byte* source, block::WriteFlags flags);
  io::task<void> write_encrypted(uint64_t offset, uint64_t length, const std::byte* source,
                                 block::WriteFlags flags);

  io::task<void> zero_new_bytes(uint64_t before);

  std::unique_ptr<block::Device> storage_;
  std::unique_ptr<block::Device> header_storage_;  // null: the header lies before the payload
  Luks1Header header_;
  uint64_t payload_offset_;
  block::Limits limits_;
  std::unique_ptr<crypto::SectorCipher> cipher_;  // null: locked
  std::optional<size_t> keyslot_;
};

}  // namespace cofre::luks
