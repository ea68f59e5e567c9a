// What client and server agreed on in the handshake.
#pragma once

#include <memory>
#include <vector>

#include "export/exported.h"
#include "export/nbd/protocol.h"

namespace cofre::nbd {

// A metadata context that the client selected.
struct MetaContext {
  uint32_t id = 0;
  std::shared_ptr<exporting::StatusSource> source;
};

struct Negotiated {
  std::shared_ptr<const exporting::Export> exported = nullptr;
  HeaderMode mode = HeaderMode::kSimple;
  std::vector<MetaContext> contexts = {};
};

// The transmission flags of an export for such a client.
uint16_t transmission_flags(const exporting::Export& exported, HeaderMode mode) noexcept;

// What is to be done with a request.
struct Verdict {
  Fault fault = Fault::kNone;
  uint64_t payload_bytes = 0;  // that follow the header
  bool hang_up = false;        // nothing sensible can follow
};
// Source: "Request types", "Command flags", "Error values" of the specification.
Verdict judge(const RequestHeader& request, const Negotiated& agreed) noexcept;

}  // namespace cofre::nbd
