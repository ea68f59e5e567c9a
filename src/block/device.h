// THE contract: everything that holds bytes is a Device, and most devices stand over another one.
//
// Requests
//   * Offsets and lengths are bytes. An offset is a multiple of limits().request_alignment; so is a length,
//   or the
//     request ends exactly at length_bytes(). A request of zero bytes does nothing.
//   * A request lies within [0, length_bytes()), except that write and write_zeroes extend a device whose
//     limits().growable is set.
//   * Buffers belong to the caller and stay valid and unchanged until the request completes.
//   * Any lane may call any device; a device with metadata moves itself to its home lane and back.
//   * Requests run concurrently. Of overlapping ones in flight the order is not defined, but each sector
//   holds the
//     bytes of one of them. A read that starts after a write completed sees that write.
// Durability
//   * A write is on stable storage when a flush that started after its completion has completed, or when it
//   was sent
//     with `fua`. A failed flush leaves it undefined which of the writes before it are stable.
// Errors
//   * Every operation may throw cofre::Error. A failed write leaves its range undefined, other ranges
//   untouched.
// End of life
//   * close() makes everything durable and releases locks; nothing else may be in flight. Destroying a device
//   that was
//     not closed is what a crash would be: safe, and nothing that a flush confirmed is lost.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "block/event.h"
#include "io/task.h"

namespace cofre::block {

struct Limits {
  uint32_t request_alignment = 1;        // a power of two
  uint32_t memory_alignment = 1;         // buffers aligned so are not copied; others work too
  uint32_t discard_alignment = 1;        // smaller pieces of a discard may be ignored
  uint32_t zero_alignment = 1;           // smaller pieces of zeroes may be stored as bytes; 1: not told
  uint64_t preferred_bytes = 64 * 1024;  // requests of this size (or multiples), so aligned, are cheapest
  // Writes with the flag `compressed` consist of whole units of this size, or end at length_bytes(). 0: there
  // are none.
  uint32_t compressed_unit_bytes = 0;
  uint64_t max_write_bytes = UINT32_MAX & ~uint64_t{4095};
  bool read_only = false;
  bool growable = false;
  bool grows_with_zeroes = false;  // bytes between the old end and a write past it read as zero
};

struct WriteFlags {
  bool fua = false;           // durable when the request completes
  bool compressed = false;    // write: store each unit compressed, where that makes it shorter
  bool no_overwrite = false;  // compressed write: kIo where a unit has its place already
  bool may_unmap = false;     // write_zeroes: may release the space below
  bool no_fallback = false;   // write_zeroes: fail with kUnsupported rather than write zero bytes
  bool reserve = false;       // write_zeroes: make sure now that there is space for later writes
};

// What map() says of a run of bytes. Never longer than asked for, at least one request_alignment long.
struct Extent {
  uint64_t length_bytes = 0;
  bool allocated = false;  // this layer decides the content (false: the backing device does, or zero if none)
  bool zero = false;       // reads as zero for sure
  bool data = false;       // stored bytes back it (a preallocated zero cluster has both zero and no data)
  bool compressed = false;  // stored compressed
  // Where the bytes rest, or would rest once written, when they rest there as they read: in one piece,
  // neither compressed nor encrypted.
  std::optional<uint64_t> host_offset = std::nullopt;
  std::string_view host_name =
      {};  // what host_offset counts in, set together with it; lives as long as the device
};

class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  virtual ~Device() = default;

  // The name that messages use: a path, or a json: description.
  virtual const std::string& name() const = 0;
  virtual const Limits& limits() const = 0;
  virtual uint64_t length_bytes() const = 0;

  virtual io::task<void> read(uint64_t offset, Bytes destination) = 0;
  virtual io::task<void> write(uint64_t offset, ConstBytes source, WriteFlags flags = {}) = 0;
  virtual io::task<void> write_zeroes(uint64_t offset, uint64_t length, WriteFlags flags = {}) = 0;
  // A hint: what the range reads as afterwards is not defined by the contract (qcow2 defines it: zero or
  // backing).
  virtual io::task<void> discard(uint64_t offset, uint64_t length) = 0;
  virtual io::task<void> flush() = 0;

  // The extent that starts at `offset`, in this layer only: where allocated is false, ask backing().
  virtual io::task<Extent> map(uint64_t offset, uint64_t length) = 0;

  // Changes length_bytes(). New bytes read as zero.
  virtual io::task<void> resize(uint64_t length) = 0;
  virtual io::task<void> close() = 0;

  // The device below in the backing chain (not the storage below), or null. Owned by this one.
  virtual Device* backing() const { return nullptr; }
  // Bytes that the host gives to this device, or nothing if it cannot tell.
  virtual std::optional<uint64_t> allocated_bytes() const { return std::nullopt; }
  // A format above says where it is. Devices that pass requests on pass events on; only fault injectors act.
  virtual void raise(Event /*event*/) {}
};

// What reads give: map() followed down the backing chain, stopping above `base` (null: to the bottom).
struct ChainExtent {
  Extent extent;       // allocated: some layer above `base` decides the content
  uint32_t depth = 0;  // 0 is `top`; of the layer that decides, or the deepest one asked
  Device* layer = nullptr;
};
io::task<ChainExtent> map_chain(Device& top, uint64_t offset, uint64_t length, Device* base = nullptr);

}  // namespace cofre::block
