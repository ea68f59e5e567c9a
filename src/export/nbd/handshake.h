// The handshake of a connection, server side: fixed newstyle negotiation. Source: the NBD protocol
// specification, "Handshake", "Option types".
//
// Bounded in time by one deadline for all of it and in memory by kMaxOptionBytes, whatever the client sends.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "export/exported.h"
#include "export/nbd/channel.h"
#include "export/nbd/negotiated.h"
#include "export/nbd/options.h"

namespace cofre::nbd {

// Data of an option beyond this is read and forgotten, and the option refused.
inline constexpr uint32_t kMaxOptionBytes = 64 * 1024;

// Carries out STARTTLS: gives the secure channel over the socket, or null if the client is no good.
using StartTls = std::function<io::task<std::unique_ptr<Channel>>(io::Deadline)>;

struct HandshakeSettings {
  const exporting::ExportTable* exports = nullptr;
  StartTls start_tls;  // empty: no TLS. Else nothing is told or given without it.
  std::function<bool()> stopping;
};

class Handshake {
 public:
  // `channel` is replaced by a secure one when the client asks for TLS.
  Handshake(std::unique_ptr<Channel>& channel, const HandshakeSettings& settings, io::Deadline deadline)
      : channel_(channel), settings_(settings), deadline_(deadline) {}

  // Nothing: the connection is over, by the client's wish, for its breach of the protocol, or in time.
  io::task<std::optional<Negotiated>> run();

 private:
  enum class Next { kOption, kTransmit, kHangUp };
  struct OptionHeader {
    uint32_t option;
    uint32_t length;
    bool is(Option wanted) const noexcept { return option == static_cast<uint32_t>(wanted); }
  };

  io::task<bool> greet();
  io::task<std::optional<OptionHeader>> next_option();
  io::task<Next> answer(OptionHeader header);
  io::task<Next> answer_data(OptionHeader header, ConstBytes data);
  io::task<Next> export_name(ConstBytes data);
  io::task<Next> list(OptionHeader header, ConstBytes data);
  io::task<Next> start_tls(OptionHeader header, ConstBytes data);
  io::task<Next> info_or_go(OptionHeader header, ConstBytes data);
  io::task<bool> send_infos(OptionHeader header, const InfoQuery& query);
  io::task<Next> choose_headers(OptionHeader header, ConstBytes data);
  io::task<Next> meta_context(OptionHeader header, ConstBytes data);
  io::task<Next> acknowledge(OptionHeader header);
  io::task<Next> refuse(OptionHeader header, OptionReply why, std::string text);
  io::task<bool> reply(OptionHeader header, OptionReply type, ConstBytes data = {});
  void choose(std::shared_ptr<const exporting::Export> exported);

  std::unique_ptr<Channel>& channel_;
  const HandshakeSettings& settings_;
  io::Deadline deadline_;
  bool fixed_newstyle_ = false;
  bool no_zeroes_ = false;
  Negotiated agreed_;
  // The export that the contexts were selected of.
  std::shared_ptr<const exporting::Export> contexts_of_;
};

}  // namespace cofre::nbd
