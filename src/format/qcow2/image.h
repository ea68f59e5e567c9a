// A qcow2 image as a Device: header, tables, caches, allocator and cipher put together.
//
// Metadata belongs to the home lane, the lane that opened the image; reads and writes come from any lane,
// look up or allocate at home, move bytes on the caller's lane, and commit at home.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block/device.h"
#include "crypto/sector_cipher.h"
#include "format/luks/luks1.h"
#include "format/qcow2/create.h"
#include "format/qcow2/header.h"

namespace cofre::qcow2 {

struct State;  // tables, caches and allocator: state.h

struct OpenOptions {
  bool read_only = false;
  // Bytes of L2 tables kept in memory; 0: enough for the whole image, at most kDefaultL2CacheCap.
  uint64_t l2_cache_bytes = 0;
  uint64_t refcount_cache_bytes = 0;                  // 0: a quarter of the L2 cache
  bool discard_unmap = true;                          // give discarded clusters' space back to the host
  bool discard_other = false;                         // and that of clusters given up otherwise
  std::optional<bool> lazy_refcounts = std::nullopt;  // none: as the header says
  bool for_check = false;  // open although the corrupt bit is set or the tables are bad, to check and repair
};
// 128 MiB cover a fully allocated 1 TiB image at 64 KiB clusters.
inline constexpr uint64_t kDefaultL2CacheCap = 128 * kMiB;

struct SnapshotEntry {
  std::string id;
  std::string name;
  uint64_t l1_table_offset = 0;
  uint32_t l1_entries = 0;
  uint64_t vm_state_bytes = 0;
  uint64_t disk_bytes = 0;
  uint32_t date_seconds = 0;
  uint32_t date_nanoseconds = 0;
  uint64_t vm_clock_ns = 0;
  std::optional<uint64_t> icount;
};

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
  // The LUKS header of an image encrypted so, without a key. Throws Error kCorrupt.
  io::task<luks::Luks1Header> luks_header();
  std::string_view cipher_implementation() const noexcept;  // empty when not encrypted or locked

  // Maps every cluster (metadata), and reserves or writes their bytes too (falloc, full).
  io::task<void> preallocate(Preallocation mode);

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
