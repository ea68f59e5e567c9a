// A qcow2 image as a Device: header, tables, caches, allocator and cipher put together.
//
// Metadata belongs to the home lane, the lane that opened the image; reads and writes come from any lane,
// look up or allocate at home, move bytes on the caller's lane, and commit at home.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/device.h"
#include "crypto/sector_cipher.h"
#include "format/luks/luks1.h"
#include "format/qcow2/create.h"
#include "format/qcow2/header.h"
#include "format/qcow2/snapshot_table.h"

namespace cofre::qcow2 {

struct State;  // tables, caches and allocator: state.h

struct OpenOptions {
  bool read_only = false;
  // Bytes of L2 tables kept in memory; 0: enough for the whole image, at most kDefaultL2CacheCap.
  uint64_t l2_cache_bytes = 0;
  uint64_t refcount_cache_bytes = 0;                  // 0: a quarter of the L2 cache
  bool discard_unmap = true;                          // give discarded clusters' space back to the host
  bool discard_other = false;                         // and that of clusters given up otherwise
  bool discard_snapshot = true;                       // and that of deleted snapshots
  std::optional<bool> lazy_refcounts = std::nullopt;  // none: as the header says
  bool for_check = false;  // open although the corrupt bit is set or the tables are bad, to check and repair
};
// 128 MiB cover a fully allocated 1 TiB image at 64 KiB clusters.
inline constexpr uint64_t kDefaultL2CacheCap = 128 * kMiB;

class Image final : public block::Device {
 public:
  // Reads and validates header, L1 table, refcount table and snapshot table. The image comes without its
  // backing file, data file and key: add them before the first read or write. Throws Error.
  static io::task<std::unique_ptr<Image>> open(std::unique_ptr<block::Device> file,
                                               const OpenOptions& options);
  ~Image() override;

  const Header& header() const noexcept;
  const std::vector<SnapshotEntry>& snapshots() const noexcept;
  block::Device& file() const noexcept;
  block::Device* data_file() const noexcept;
  // Bytes of an autoclear-worthy, repair-worthy state found at open.
  bool is_dirty() const noexcept;
  bool is_corrupt() const noexcept;

  void set_backing(std::unique_ptr<block::Device> backing);
  void set_data_file(std::unique_ptr<block::Device> data_file);
  // Opens the cipher. aes: any passphrase is taken (there is nothing to test it against). luks: throws Error
  // kWrongSecret when no keyslot opens with it.
  io::task<void> unlock(ConstBytes passphrase);
  // The same with a LUKS volume that was made or unlocked before: no key derivation.
  void unlock(const luks::Luks1Volume& volume);
  bool needs_secret() const noexcept;
  // The LUKS volume of an image encrypted so, as unlock() opens it.
  io::task<luks::Luks1Volume> luks_volume(ConstBytes passphrase);
  // The LUKS header of an image encrypted so, without a key. Throws Error kCorrupt.
  io::task<luks::Luks1Header> luks_header();
  std::string_view cipher_implementation() const noexcept;  // empty when not encrypted or locked

  // Gives up every cluster that holds guest data, so that the backing file shows through; snapshots keep
  // theirs. Durable when it returns. No other request may be in flight. A crash leaves the image with all of
  // its mapping, or without part of it; leaked clusters at most.
  io::task<void> make_empty();

  // Internal snapshots. A number is a place in snapshots(). What these did is durable when they return, and a
  // crash meanwhile leaves the image as it was before or as it is afterwards, perhaps with leaked clusters.
  // They need no key. Reads and writes may be in flight when a snapshot is created or deleted, nothing when
  // one is applied. Throw Error: kUnsupported (data file), kLimit (too many, or more references than the
  // refcounts can tell; nothing has changed then), kReadOnly.
  //
  // Keeps the disk's present state, and that of the VM state area. Of `snapshot` the name, date, clock,
  // icount and VM state size count, the rest is filled in. VM state of that size goes over to the snapshot:
  // it is no part of the active state any more.
  io::task<void> create_snapshot(SnapshotEntry snapshot);
  // Makes the disk, its size included, what it was. Changes since are lost.
  io::task<void> apply_snapshot(size_t number);
  io::task<void> delete_snapshot(size_t number);
  // From now on this device, opened read-only and not read from yet, is the snapshot: its content and size.
  io::task<void> show_snapshot(size_t number);

  // The VM state lies behind the disk's end, `offset` bytes into an area of its own; offset and length are
  // multiples of 512. What was never saved reads as zero. Throw Error: kLimit past what tables can map.
  io::task<void> save_vmstate(uint64_t offset, ConstBytes source);
  io::task<void> load_vmstate(uint64_t offset, Bytes destination);

  // Maps every cluster from `begin` on (metadata), and reserves or writes their bytes too (falloc, full).
  // From `begin` on the disk must read as zero.
  io::task<void> preallocate(Preallocation mode, uint64_t begin = 0);

  // Changes what the header names as backing file (nothing or an empty name: none) and its format; the
  // device that set_backing() gave stays. All that was written before is durable first, and the change is
  // when it returns. Needs no key. Throws Error as update_header() does (header_update.h).
  io::task<void> change_backing(std::optional<std::string> name, std::optional<std::string> format);

  const std::string& name() const override;
  const block::Limits& limits() const override;
  uint64_t length_bytes() const override;
  io::task<void> read(uint64_t offset, Bytes destination) override;
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags = {}) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags = {}) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;
  io::task<void> flush() override;
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override;
  io::task<void> resize(uint64_t length) override;
  io::task<void> close() override;
  block::Device* backing() const override;
  std::optional<uint64_t> allocated_bytes() const override;

  State& state() noexcept { return *state_; }

 private:
  explicit Image(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace cofre::qcow2
