// The persistent dirty bitmaps of an open image: what its directory lists, and the bits in memory of those
// that follow the disk. Source: qcow2 specification, "Bitmaps".
//
// A crash leaves each bitmap right, or in use on disk, which says that it cannot be relied on:
//
//   before a change of the disk: the enabled bitmaps are in use on disk, durably
//   at close: bits, then tables, then the directory, in which they are in use no more; barriers between
//   at last: clusters that nothing names any more lose their references
//
// Bits are written in place, for the bitmap is in use then. A directory of other bitmaps, or of tables in
// other places, is written to new clusters, and the header tells old from new. A bitmap found in use when the
// image was opened is inconsistent: it is kept, never used, and can only be removed.
//
// Home lane; `metadata` is held unless said otherwise. Actions on bitmaps: bitmap_actions.h.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "format/qcow2/bitmap_directory.h"
#include "format/qcow2/dirty_bitmap.h"
#include "format/qcow2/retired.h"
#include "io/task.h"

namespace cofre::qcow2 {

struct State;

struct Bitmap {
  BitmapEntry entry;                       // as the directory is to have it: in use only if inconsistent
  std::optional<size_t> entry_at = {};     // in the directory on disk; nothing: it is not there yet
  std::unique_ptr<DirtyBitmap> bits = {};  // once they were needed
  std::vector<uint64_t> table = {};        // as on disk, once it was followed
  std::string fault = {};                  // why the table cannot be followed
  bool changed = false;                    // the bits are other ones than those on disk
  bool marked = false;                     // in use on disk, but only until it is stored

  bool consistent() const noexcept { return !entry.in_use(); }
  // It has to note every change of the disk.
  bool follows() const noexcept { return entry.enabled() && consistent(); }
};

class Bitmaps {
 public:
  explicit Bitmaps(State& state) : state_(state) {}

  // At open; the lock is not needed yet. A directory that is damaged counts as a fault: require_sound()
  // throws it, and so does all that would change the disk.
  io::task<void> read_directory();
  // Throws Error kCorrupt. Any time.
  void require_sound() const;
  // What is wrong with the directory; empty: nothing.
  const std::string& fault() const noexcept { return fault_; }
  // For the check: the header says durably that there are no bitmaps; their clusters leak.
  io::task<void> give_up_directory();
  bool any() const noexcept { return !list_.empty(); }
  const std::vector<std::unique_ptr<Bitmap>>& list() const noexcept { return list_; }

  // Whether note() reaches every bitmap that follows the disk. No lock needed.
  bool ready() const noexcept { return ready_; }
  // Makes it so: loads bits, and marks their bitmaps in use on disk. Throws Error kUnsupported for an enabled
  // bitmap of a kind that is not known here, kLimit where bitmaps take too much memory.
  io::task<void> before_change();
  // [begin, end) of the guest is about to change. Neither waits nor allocates. No lock needed.
  void note(uint64_t begin, uint64_t end) noexcept;

  // Around a change of the disk's length. Every bitmap, enabled or not, is loaded and in use on disk then;
  // throws Error kInvalidArgument for an inconsistent one, and what before_change() throws.
  io::task<void> before_resize(uint64_t length_bytes);
  void resized();

  // Writes all that changed. Where that fails, bitmaps stay in use on disk.
  io::task<void> store();
  // Removes them all, at once: the image is about to become one that has none.
  io::task<void> remove_all();
  // Whether there is something to store.
  bool changed() const noexcept;

  // ---- for actions ----
  // Throws Error kNotFound.
  Bitmap& find(const std::string& name);
  // Throws unless its bits are there to be used (inconsistent, damaged, not known here): find() and load.
  io::task<Bitmap*> usable(const std::string& name);
  // The clusters of every bitmap, in the metadata map; faults are noted. Once.
  io::task<void> follow_tables();
  Bitmap& append(BitmapEntry entry);
  void remove(Bitmap& bitmap);
  void set_enabled(Bitmap& bitmap, bool enabled);

 private:
  io::task<void> load(Bitmap& bitmap);
  io::task<void> load_follower(Bitmap& bitmap);
  void find_followers();
  io::task<void> read_table(Bitmap& bitmap);
  io::task<void> follow_table(Bitmap& bitmap);
  bool claim(uint64_t offset, uint64_t length);
  void check_memory(uint64_t more_bytes) const;
  uint64_t table_entries(const Bitmap& bitmap) const noexcept;

  // Whether a crash now would leave a bitmap that is believed to have noted changes that it has not.
  bool promises(const Bitmap& bitmap) const noexcept;
  // In use on disk from now on; durable.
  io::task<void> mark_in_use(std::vector<Bitmap*> bitmaps);
  uint32_t flags_on_disk(const Bitmap& bitmap) const noexcept;
  void patch_flags(const Bitmap& bitmap, uint32_t flags) noexcept;
  io::task<void> write_directory_in_place();

  // bitmaps_store.cc
  io::task<void> write_bits(Bitmap& bitmap, std::vector<uint64_t>& table);
  io::task<uint64_t> place_of_bits(uint64_t old_entry);
  io::task<void> write_table(Bitmap& bitmap, std::vector<uint64_t> table);
  io::task<bool> may_overwrite(uint64_t offset, uint64_t clusters);
  io::task<void> write_bits_and_tables();
  io::task<void> switch_directory();
  void finish_store();
  void drop(uint64_t offset, uint64_t clusters);
  void drop_all_of(const Bitmap& bitmap);

  State& state_;
  std::vector<std::unique_ptr<Bitmap>> list_;
  std::vector<std::unique_ptr<Bitmap>> removed_;  // still on disk
  std::vector<std::byte> directory_;              // as on disk
  std::vector<DirtyBitmap*> tracked_;
  std::vector<Retired::Run> dropped_;  // clusters that nothing will name once all is stored
  std::string fault_;
  bool followed_ = false;
  bool ready_ = false;
  bool moved_ = false;  // the directory on disk lists other bitmaps, or tables in other places
  bool flags_changed_ = false;
};

}  // namespace cofre::qcow2
