// An export of an NBD server as a Device, over libnbd. It has no home lane: any lane reads and writes it.
//
// One thread of its own drives the connection; many requests are in flight, each living in the frame of the
// coroutine that waits for it. (Protocol: the NBD specification, doc/proto.md.)
//
// A connection that breaks fails the requests in flight, and all later ones, with kIo; with
// `reconnect_delay_s` they wait so long for a new connection first, and are sent again. A write that was sent
// twice wrote the same bytes twice.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "block/device.h"

namespace cofre::storage {

// How to trust the server, and how it trusts us. One of the two is set.
struct NbdTls {
  std::string x509_folder = {};  // ca-cert.pem, client-cert.pem, client-key.pem
  bool verify_peer = true;       // x509: refuse a server that the authority has not signed
  std::string psk_file = {};     // lines "username:hexadecimal key"
  std::string psk_username = {};
};

struct NbdOptions {
  std::string name = {};       // for messages
  std::string unix_path = {};  // of the server's socket, or
  std::string host = {};
  std::string port = "10809";
  std::string export_name = {};
  std::optional<NbdTls> tls = std::nullopt;
  bool read_only = false;
  uint64_t reconnect_delay_s = 0;  // 0: a broken connection is not made again
  uint64_t open_timeout_s = 0;     // 0: the first attempt to connect counts
  // map() tells of this metadata context in place of the allocation ("qemu:dirty-bitmap:NAME"); its bit 0 is
  // taken as QEMU's x-dirty-bitmap has it: dirty is no data.
  std::string status_context = {};
};

class NbdConnection;  // the thread and its handle: nbd_connection.h

class NbdDevice final : public block::Device {
 public:
  // Connects, which blocks the calling thread. Throws Error: kNotFound for an export that is not there,
  // kReadOnly for writing to one that is read-only, others when there is no server, or none that one could
  // talk to.
  static std::unique_ptr<NbdDevice> open(const NbdOptions& options);
  ~NbdDevice() override;

  const std::string& name() const override { return name_; }
  const block::Limits& limits() const override { return limits_; }
  uint64_t length_bytes() const override { return length_; }

  io::task<void> read(uint64_t offset, Bytes destination) override;
  io::task<void> write(uint64_t offset, ConstBytes source, block::WriteFlags flags = {}) override;
  io::task<void> write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags = {}) override;
  io::task<void> discard(uint64_t offset, uint64_t length) override;
  io::task<void> flush() override;
  io::task<block::Extent> map(uint64_t offset, uint64_t length) override;
  io::task<void> resize(uint64_t length) override;
  io::task<void> close() override;

 private:
  explicit NbdDevice(const NbdOptions& options);
  void check_range(uint64_t offset, uint64_t length) const;
  void check_writable(uint64_t offset, uint64_t length) const;
  io::task<void> write_zero_bytes(uint64_t offset, uint64_t length);

  std::string name_;
  std::unique_ptr<NbdConnection> connection_;
  block::Limits limits_;
  uint64_t length_ = 0;
  uint64_t largest_payload_ = 0;  // bytes of one read or write request
  bool read_only_ = false;
};

}  // namespace cofre::storage
