#include "export/nbd/handshake.h"

#include <algorithm>
#include <array>

#include "base/aligned_buffer.h"

namespace cofre::nbd {
namespace {

// A client that sends more data than this with an option is not worth listening to.
constexpr uint32_t kMostSkippedBytes = 32 * kMiB;

// Bytes of a reply, put together.
class Message {
 public:
  template <typename T>
  Message& integer(T value) {
    std::array<std::byte, sizeof(T)> bytes;
    store_be(bytes.data(), value);
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  Message& text(const std::string& text) {
    const ConstBytes bytes = std::as_bytes(std::span(text));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  Message& zeroes(size_t count) {
    bytes_.resize(bytes_.size() + count);
    return *this;
  }
  ConstBytes bytes() const noexcept { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

std::string no_export_text(const std::string& name) {
  return "export '" + name.substr(0, 256) + "' not present";
}

}  // namespace

io::task<std::optional<Negotiated>> Handshake::run() {
  if (!co_await greet()) co_return std::nullopt;
  while (true) {
    const std::optional<OptionHeader> header = co_await next_option();
    if (!header) co_return std::nullopt;
    const Next next = co_await answer(*header);
    if (next == Next::kHangUp) co_return std::nullopt;
    if (next == Next::kTransmit) co_return std::move(agreed_);
  }
}

io::task<bool> Handshake::greet() {
  Message greeting;
  greeting.integer(kServerMagic).integer(kOptionMagic).integer<uint16_t>(kFixedNewstyle | kNoZeroes);
  if (!co_await send_bytes(*channel_, greeting.bytes(), deadline_)) co_return false;
  std::array<std::byte, 4> answer;
  if (!co_await receive_exactly(*channel_, answer, deadline_)) co_return false;
  const auto flags = load_be<uint32_t>(answer.data());
  fixed_newstyle_ = (flags & kFixedNewstyle) != 0;
  no_zeroes_ = (flags & kNoZeroes) != 0;
  co_return (flags & ~uint32_t{kFixedNewstyle | kNoZeroes}) == 0;
}

io::task<std::optional<Handshake::OptionHeader>> Handshake::next_option() {
  std::array<std::byte, 16> header;
  if (!co_await receive_exactly(*channel_, header, deadline_)) co_return std::nullopt;
  if (load_be<uint64_t>(header.data()) != kOptionMagic) co_return std::nullopt;
  co_return OptionHeader{.option = load_be<uint32_t>(header.data() + 8),
                         .length = load_be<uint32_t>(header.data() + 12)};
}

io::task<Handshake::Next> Handshake::answer(OptionHeader header) {
  if (header.length > kMaxOptionBytes) {
    if (header.length > kMostSkippedBytes || !fixed_newstyle_) co_return Next::kHangUp;
    if (!co_await skip_bytes(*channel_, header.length, deadline_)) co_return Next::kHangUp;
    co_return co_await refuse(header, OptionReply::kErrorTooBig, "the option has too much data");
  }
  std::vector<std::byte> data(header.length);
  if (!co_await receive_exactly(*channel_, data, deadline_)) co_return Next::kHangUp;
  co_return co_await answer_data(header, data);
}

io::task<Handshake::Next> Handshake::answer_data(OptionHeader header, ConstBytes data) {
  // Only the name of an export is understood of the oldest clients, and only they may not be refused it.
  if (!fixed_newstyle_ && !header.is(Option::kExportName)) co_return Next::kHangUp;
  if (header.is(Option::kAbort)) {
    co_await reply(header, OptionReply::kAck);
    co_return Next::kHangUp;
  }
  if (settings_.stopping && settings_.stopping() && !header.is(Option::kExportName))
    co_return co_await refuse(header, OptionReply::kErrorShutdown, "the server is shutting down");
  if (settings_.start_tls && !channel_->is_secure() && !header.is(Option::kStartTls)) {
    if (header.is(Option::kExportName)) co_return Next::kHangUp;
    co_return co_await refuse(header, OptionReply::kErrorTlsRequired, "TLS is required: send STARTTLS first");
  }
  switch (static_cast<Option>(header.option)) {
    case Option::kExportName:
      co_return co_await export_name(data);
    case Option::kList:
      co_return co_await list(header, data);
    case Option::kStartTls:
      co_return co_await start_tls(header, data);
    case Option::kInfo:
    case Option::kGo:
      co_return co_await info_or_go(header, data);
    case Option::kStructuredReply:
    case Option::kExtendedHeaders:
      co_return co_await choose_headers(header, data);
    case Option::kListMetaContext:
    case Option::kSetMetaContext:
      co_return co_await meta_context(header, data);
    case Option::kAbort:
      break;
  }
  co_return co_await refuse(header, OptionReply::kErrorUnsupported, "unknown option");
}

void Handshake::choose(std::shared_ptr<const exporting::Export> exported) {
  if (contexts_of_ != exported) agreed_.contexts.clear();
  agreed_.exported = std::move(exported);
}

io::task<Handshake::Next> Handshake::export_name(ConstBytes data) {
  const std::optional<std::string> name = parse_export_name(data);
  if (!name) co_return Next::kHangUp;
  choose(settings_.exports->find(*name));
  if (!agreed_.exported) co_return Next::kHangUp;
  Message message;
  message.integer(agreed_.exported->device->length_bytes())
      .integer(transmission_flags(*agreed_.exported, agreed_.mode));
  if (!no_zeroes_) message.zeroes(kReservedZeroes);
  co_return co_await send_bytes(*channel_, message.bytes(), deadline_) ? Next::kTransmit : Next::kHangUp;
}

io::task<Handshake::Next> Handshake::list(OptionHeader header, ConstBytes data) {
  if (!data.empty()) co_return co_await refuse(header, OptionReply::kErrorInvalid, "LIST takes no data");
  for (const auto& exported : settings_.exports->all()) {
    Message message;
    message.integer(static_cast<uint32_t>(exported->name.size())).text(exported->name);
    message.text(exported->description);
    if (!co_await reply(header, OptionReply::kServer, message.bytes())) co_return Next::kHangUp;
  }
  co_return co_await acknowledge(header);
}

io::task<Handshake::Next> Handshake::start_tls(OptionHeader header, ConstBytes data) {
  if (!data.empty()) co_return co_await refuse(header, OptionReply::kErrorInvalid, "STARTTLS takes no data");
  if (channel_->is_secure())
    co_return co_await refuse(header, OptionReply::kErrorInvalid, "TLS was started already");
  if (!settings_.start_tls)
    co_return co_await refuse(header, OptionReply::kErrorPolicy, "the server has no TLS credentials");
  if (!co_await reply(header, OptionReply::kAck)) co_return Next::kHangUp;
  std::unique_ptr<Channel> secure = co_await settings_.start_tls(deadline_);
  if (!secure) co_return Next::kHangUp;
  channel_ = std::move(secure);
  agreed_ = Negotiated{};  // what somebody in between may have sent counts no more
  contexts_of_.reset();
  co_return Next::kOption;
}

io::task<bool> Handshake::send_infos(OptionHeader header, const InfoQuery& query) {
  const exporting::Export& exported = *agreed_.exported;
  if (query.wants(Info::kName)) {
    Message name;
    name.integer(static_cast<uint16_t>(Info::kName)).text(exported.name);
    if (!co_await reply(header, OptionReply::kInfo, name.bytes())) co_return false;
  }
  if (query.wants(Info::kDescription) && !exported.description.empty()) {
    Message description;
    description.integer(static_cast<uint16_t>(Info::kDescription)).text(exported.description);
    if (!co_await reply(header, OptionReply::kInfo, description.bytes())) co_return false;
  }
  // Who begins to transmit without having asked for block sizes does not look at them.
  const bool asked = query.wants(Info::kBlockSize) || header.is(Option::kInfo);
  Message sizes;
  sizes.integer(static_cast<uint16_t>(Info::kBlockSize))
      .integer(asked ? exported.minimum_block_bytes : uint32_t{1})
      .integer(exported.preferred_block_bytes)
      .integer(kMaxPayloadBytes);
  if (!co_await reply(header, OptionReply::kInfo, sizes.bytes())) co_return false;
  Message about;
  about.integer(static_cast<uint16_t>(Info::kExport))
      .integer(exported.device->length_bytes())
      .integer(transmission_flags(exported, agreed_.mode));
  co_return co_await reply(header, OptionReply::kInfo, about.bytes());
}

io::task<Handshake::Next> Handshake::info_or_go(OptionHeader header, ConstBytes data) {
  const std::optional<InfoQuery> query = parse_info_query(data);
  if (!query)
    co_return co_await refuse(header, OptionReply::kErrorInvalid, "malformed request for an export");
  const auto exported = settings_.exports->find(query->name);
  if (!exported) co_return co_await refuse(header, OptionReply::kErrorUnknown, no_export_text(query->name));
  if (header.is(Option::kGo)) {
    choose(exported);
  } else {
    agreed_.exported = exported;
  }
  if (!co_await send_infos(header, *query)) co_return Next::kHangUp;
  if (header.is(Option::kInfo) && !query->wants(Info::kBlockSize) && exported->minimum_block_bytes > 1)
    co_return co_await refuse(header, OptionReply::kErrorBlockSizeRequired, "ask for the block sizes too");
  const Next next = co_await acknowledge(header);
  co_return next == Next::kOption&& header.is(Option::kGo) ? Next::kTransmit : next;
}

io::task<Handshake::Next> Handshake::choose_headers(OptionHeader header, ConstBytes data) {
  if (!data.empty())
    co_return co_await refuse(header, OptionReply::kErrorInvalid, "the option takes no data");
  if (agreed_.mode == HeaderMode::kExtended && header.is(Option::kStructuredReply))
    co_return co_await refuse(header, OptionReply::kErrorExtendedHeadersRequired,
                              "extended headers were negotiated already");
  const HeaderMode wanted =
      header.is(Option::kExtendedHeaders) ? HeaderMode::kExtended : HeaderMode::kStructured;
  if (agreed_.mode == wanted)
    co_return co_await refuse(header, OptionReply::kErrorInvalid, "the option was negotiated already");
  agreed_.mode = wanted;
  co_return co_await acknowledge(header);
}

io::task<Handshake::Next> Handshake::meta_context(OptionHeader header, ConstBytes data) {
  const bool listing = header.is(Option::kListMetaContext);
  if (!listing && agreed_.mode == HeaderMode::kSimple)
    co_return co_await refuse(header, OptionReply::kErrorInvalid,
                              "metadata contexts need structured replies: negotiate those first");
  if (!listing) agreed_.contexts.clear();
  const std::optional<MetaQuery> query = parse_meta_query(data);
  if (!query)
    co_return co_await refuse(header, OptionReply::kErrorInvalid, "malformed query of metadata contexts");
  const auto exported = settings_.exports->find(query->name);
  if (!exported) co_return co_await refuse(header, OptionReply::kErrorUnknown, no_export_text(query->name));
  if (!listing) contexts_of_ = exported;
  for (uint32_t i = 0; i < exported->statuses.size(); ++i) {
    const auto& source = exported->statuses[i];
    if (!query->wants(source->name(), listing)) continue;
    if (!listing) agreed_.contexts.push_back({.id = i, .source = source});
    Message message;
    message.integer(listing ? 0 : i).text(source->name());
    if (!co_await reply(header, OptionReply::kMetaContext, message.bytes())) co_return Next::kHangUp;
  }
  co_return co_await acknowledge(header);
}

io::task<Handshake::Next> Handshake::acknowledge(OptionHeader header) {
  co_return co_await reply(header, OptionReply::kAck) ? Next::kOption : Next::kHangUp;
}

io::task<Handshake::Next> Handshake::refuse(OptionHeader header, OptionReply why, std::string text) {
  if (header.is(Option::kExportName)) co_return Next::kHangUp;  // it has no reply
  co_return co_await reply(header, why, std::as_bytes(std::span(text))) ? Next::kOption : Next::kHangUp;
}

io::task<bool> Handshake::reply(OptionHeader header, OptionReply type, ConstBytes data) {
  Message message;
  message.integer(kOptionReplyMagic)
      .integer(header.option)
      .integer(static_cast<uint32_t>(type))
      .integer(static_cast<uint32_t>(data.size()));
  std::array<iovec, 2> pieces = {{{const_cast<std::byte*>(message.bytes().data()), message.bytes().size()},
                                  {const_cast<std::byte*>(data.data()), data.size()}}};
  co_return co_await channel_->send(std::span(pieces).first(data.empty() ? 1 : 2), deadline_) == 0;
}

}  // namespace cofre::nbd
