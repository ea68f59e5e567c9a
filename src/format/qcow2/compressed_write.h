// Compressed writes: whole clusters are compressed on the caller's lane, get their bytes of host clusters at
// home, move, and are committed at home. What does not become shorter is written as any other bytes.
// Source: qcow2 specification, "Compressed Clusters Descriptor".
#pragma once

#include <vector>

#include "base/aligned_buffer.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {

// Some neighbouring clusters, stored back to back. The caller's bytes must stay until store() completes.
class CompressedWrite {
 public:
  // The most that one of them takes, in bytes of the guest: whole clusters.
  static uint64_t longest(const State& state) noexcept;

  // `guest` is a cluster's start; so is the end of `source`, or it is the disk's end.
  // `no_overwrite`: a cluster that became shorter may not have a place yet.
  CompressedWrite(State& state, io::Reactor& lane, uint64_t guest, ConstBytes source, bool no_overwrite)
      : state_(state), lane_(lane), guest_(guest), source_(source), no_overwrite_(no_overwrite) {}

  // Any lane; does not wait.
  void compress();
  // Starts on the home lane and returns there, moving bytes on `lane`. Throws Error.
  io::task<void> store();

 private:
  // A cluster that became shorter. Its bytes stand in packed_, right behind those of the piece before.
  struct Piece {
    uint64_t guest;
    uint64_t packed_at;
    uint64_t length_bytes;
    uint64_t host = 0;  // 0: no bytes are taken for it, or an L2 entry names them
  };
  // Pieces whose bytes lie in one run of the host, from a sector's start on.
  struct Segment {
    uint64_t host;
    uint64_t packed_at;
    uint64_t length_bytes;
  };

  ConstBytes cluster_at(uint64_t guest, AlignedBuffer& padded) const;
  io::task<void> store_pieces();
  io::task<void> allocate();
  void require_no_place(L2Entry entry, uint64_t guest) const;
  std::vector<Segment> segments() const;
  io::task<void> move();
  io::task<void> commit();
  void give_back();
  io::task<void> store_others();

  State& state_;
  io::Reactor& lane_;
  const uint64_t guest_;
  const ConstBytes source_;
  const bool no_overwrite_;
  AlignedBuffer packed_;
  std::vector<Piece> pieces_;  // in rising order
};

}  // namespace cofre::qcow2
