#include "export/nbd/transmission.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

namespace cofre::nbd {
namespace {

constexpr size_t kReceiveBytes = 64 * kKiB;
// A payload from here on goes straight into its buffer, but for what had been received with its header.
constexpr uint64_t kLargePayloadBytes = 32 * kKiB;
// Answers that are sent in one system call.
constexpr size_t kMostGathered = 64;

exporting::Op op_of(const RequestHeader& header) noexcept {
  switch (static_cast<Command>(header.command)) {
    case Command::kRead:
      return exporting::Op::kRead;
    case Command::kWrite:
      return exporting::Op::kWrite;
    case Command::kFlush:
      return exporting::Op::kFlush;
    case Command::kTrim:
      return exporting::Op::kDiscard;
    case Command::kCache:
      return exporting::Op::kCache;
    case Command::kWriteZeroes:
      return exporting::Op::kWriteZeroes;
    case Command::kBlockStatus:
      return exporting::Op::kBlockStatus;
    case Command::kDisconnect:
      break;
  }
  return exporting::Op::kOther;
}

}  // namespace

Transmission::Transmission(Channel& channel, Negotiated agreed, Budget& budget, TransmissionLimits limits,
                           std::function<void(const Error&)> note_fault, exporting::LaneActivity* activity)
    : channel_(channel),
      agreed_(std::move(agreed)),
      budget_(budget),
      limits_(limits),
      note_fault_(std::move(note_fault)),
      device_(*agreed_.exported->device),
      activity_(activity),
      received_(kReceiveBytes) {
  pieces_.reserve(2 * kMostGathered);
  being_sent_.reserve(kMostGathered);
}

Transmission::~Transmission() = default;

io::task<void> Transmission::run() {
  try {
    while (!broken_ && co_await take_request()) {
    }
  } catch (const std::bad_alloc&) {  // hangs up: there is no way to go on in the stream
  }
  while (in_flight_ > 0 || sending_) co_await room_.wait();
}

// ---- receiving ----

// At least `needed` bytes in the buffer: true. Where payloads are large, not more than the next header is
// asked for, so that they need no copy.
io::task<bool> Transmission::fill(size_t needed) {
  if (begin_ == end_) begin_ = end_ = 0;
  if (begin_ + needed > received_.size()) {
    std::memmove(received_.data(), received_.data() + begin_, buffered());
    end_ = buffered();
    begin_ = 0;
  }
  while (buffered() < needed) {
    const size_t wanted = large_payloads_ ? needed - buffered() : received_.size() - end_;
    const Bytes into = received_.bytes().subspan(end_, wanted);
    // A client that always has something to say must not keep the requests it has begun from going on.
    if (std::exchange(took_since_wait_, false)) co_await io::yield();
    int64_t got = channel_.receive_now(into);
    if (got == -EAGAIN) got = co_await channel_.receive(into, {});
    if (got <= 0) co_return false;
    end_ += static_cast<size_t>(got);
  }
  co_return true;
}

void Transmission::take_buffered(Bytes into) noexcept {
  std::memcpy(into.data(), received_.data() + begin_, into.size());
  begin_ += into.size();
}

// False: no request follows.
io::task<bool> Transmission::take_request() {
  const size_t header_bytes = request_header_bytes(agreed_.mode);
  if (buffered() < header_bytes && !co_await fill(header_bytes)) co_return false;
  const auto header =
      decode_request(std::as_const(received_).bytes().subspan(begin_, header_bytes), agreed_.mode);
  if (!header) co_return false;
  begin_ += header_bytes;
  if (header->is(Command::kDisconnect)) co_return false;
  const Verdict verdict = judge(*header, agreed_);
  if (verdict.hang_up) co_return false;
  large_payloads_ = verdict.payload_bytes >= kLargePayloadBytes;

  const bool good = verdict.fault == Fault::kNone;
  const bool holds = good && (header->is(Command::kRead) || header->is(Command::kWrite));
  Request* const request = co_await admit(*header, holds ? header->length : 0);
  request->fault = verdict.fault;
  if (verdict.payload_bytes > 0) {
    const bool came = good ? co_await take_payload(*request) : co_await skip_payload(verdict.payload_bytes);
    if (!came) {  // the client is gone in the middle of it
      release(*request);
      co_return false;
    }
  }
  took_since_wait_ = true;
  if (activity_ != nullptr) request->begun = activity_->begin(op_of(*header));
  if (good) {
    begin_serving(*request);
  } else {
    answer(*request);
  }
  co_return true;
}

void Transmission::begin_serving(Request& request) {
  try {
    serve(*this, request);
  } catch (const std::bad_alloc&) {  // no memory for its frame
    request.fault = Fault::kNoMemory;
    note_end(request);
    release(request);
    throw;
  }
}

io::task<bool> Transmission::take_payload(Request& request) {
  const Bytes into = request.buffer.bytes();
  const size_t there = std::min(into.size(), buffered());
  take_buffered(into.first(there));
  Bytes rest = into.subspan(there);
  if (rest.empty()) co_return true;
  if (rest.size() < kLargePayloadBytes) {  // with what follows
    if (!co_await fill(rest.size())) co_return false;
    take_buffered(rest);
    co_return true;
  }
  while (!rest.empty()) {
    int64_t got = channel_.receive_now(rest);
    if (got == -EAGAIN) {
      took_since_wait_ = false;
      got = co_await channel_.receive(rest, {});
    }
    if (got <= 0) co_return false;
    rest = rest.subspan(static_cast<size_t>(got));
  }
  co_return true;
}

io::task<bool> Transmission::skip_payload(uint64_t count) {
  large_payloads_ = false;  // nothing goes straight into a buffer
  while (count > 0) {
    if (buffered() == 0 && !co_await fill(1)) co_return false;
    const size_t there = std::min<uint64_t>(count, buffered());
    begin_ += there;
    count -= there;
  }
  co_return true;
}

// ---- admission ----

io::task<Transmission::Request*> Transmission::admit(const RequestHeader& header, uint64_t held_bytes) {
  while (in_flight_ >= limits_.requests ||
         (held_bytes_ > 0 && held_bytes_ + held_bytes > limits_.connection_bytes)) {
    took_since_wait_ = false;
    co_await room_.wait();
  }
  if (free_ == nullptr) {
    requests_.push_back(std::make_unique<Request>());
    free_ = requests_.back().get();
  }
  Request& request = *std::exchange(free_, free_->next);
  request.header = header;
  request.held_bytes = held_bytes;
  held_bytes_ += held_bytes;
  ++in_flight_;
  if (held_bytes > 0 && held_bytes_ > kGuaranteedBytes) {
    request.budgeted_bytes = held_bytes;
    co_await budget_.acquire(held_bytes);
  }
  try {
    if (held_bytes > 0) request.buffer = AlignedBuffer(held_bytes);
  } catch (const std::bad_alloc&) {
    release(request);
    throw;
  }
  co_return &request;
}

void Transmission::release(Request& request) noexcept {
  request.buffer = AlignedBuffer();
  request.payload = {};
  request.status.clear();
  if (request.budgeted_bytes > 0) budget_.release(std::exchange(request.budgeted_bytes, 0));
  held_bytes_ -= request.held_bytes;
  --in_flight_;
  request.next = free_;
  free_ = &request;
  room_.wake_one();
}

// ---- answering ----

void Transmission::note_end(const Request& request) noexcept {
  if (activity_ == nullptr) return;
  const bool has_length = request.begun.op != exporting::Op::kFlush;  // of which it is reserved
  activity_->end(request.begun, has_length ? request.header.length : 0, request.fault != Fault::kNone);
}

void Transmission::answer(Request& request) {
  note_end(request);
  prepare_reply(request);
  request.next = nullptr;
  (replies_tail_ != nullptr ? replies_tail_->next : replies_head_) = &request;
  replies_tail_ = &request;
  if (!sending_) send_replies(*this);
}

void Transmission::prepare_reply(Request& request) {
  request.payload = {};
  const bool is_read = request.header.is(Command::kRead);
  if (agreed_.mode == HeaderMode::kSimple) {
    encode_simple_reply(request.reply.data(), request.fault, request.header.cookie);
    request.reply_bytes = kSimpleReplyBytes;
    if (is_read && request.fault == Fault::kNone) request.payload = std::as_const(request.buffer).bytes();
  } else if (request.fault != Fault::kNone) {
    prepare_fault_reply(request);
  } else if (is_read && request.header.length > 0) {
    prepare_read_reply(request);
  } else if (request.header.is(Command::kBlockStatus)) {
    request.reply_bytes = 0;
    request.payload = request.status;
  } else {
    encode_chunk(request.reply.data(), agreed_.mode, kChunkDone, Chunk::kNone, request.header, 0);
    request.reply_bytes = chunk_header_bytes(agreed_.mode);
  }
}

void Transmission::prepare_read_reply(Request& request) {
  const size_t header_bytes = chunk_header_bytes(agreed_.mode);
  std::byte* const body = request.reply.data() + header_bytes;
  const ConstBytes data = std::as_const(request.buffer).bytes();
  store_be(body, request.header.offset);
  if ((request.header.flags & command_flag::kDontFragment) == 0 && is_zero(data)) {
    encode_chunk(request.reply.data(), agreed_.mode, kChunkDone, Chunk::kOffsetHole, request.header, 12);
    store_be(body + 8, static_cast<uint32_t>(data.size()));
    request.reply_bytes = header_bytes + 12;
  } else {
    encode_chunk(request.reply.data(), agreed_.mode, kChunkDone, Chunk::kOffsetData, request.header,
                 8 + data.size());
    request.reply_bytes = header_bytes + 8;
    request.payload = data;
  }
}

void Transmission::prepare_fault_reply(Request& request) {
  const size_t header_bytes = chunk_header_bytes(agreed_.mode);
  const char* const text = fault_text(request.fault);
  const size_t text_bytes = std::min(std::strlen(text), request.reply.size() - header_bytes - 6);
  encode_chunk(request.reply.data(), agreed_.mode, kChunkDone, Chunk::kError, request.header, 6 + text_bytes);
  std::byte* const body = request.reply.data() + header_bytes;
  store_be(body, static_cast<uint32_t>(request.fault));
  store_be(body + 4, static_cast<uint16_t>(text_bytes));
  std::memcpy(body + 6, text, text_bytes);
  request.reply_bytes = header_bytes + 6 + text_bytes;
}

size_t Transmission::gather(std::vector<iovec>& pieces) {
  pieces.clear();
  being_sent_.clear();
  while (replies_head_ != nullptr && being_sent_.size() < kMostGathered) {
    Request& request = *replies_head_;
    replies_head_ = request.next;
    if (replies_head_ == nullptr) replies_tail_ = nullptr;
    if (request.reply_bytes > 0) pieces.push_back({request.reply.data(), request.reply_bytes});
    if (!request.payload.empty())
      pieces.push_back({const_cast<std::byte*>(request.payload.data()), request.payload.size()});
    being_sent_.push_back(&request);
  }
  return being_sent_.size();
}

// Runs while there are answers. It lets others run first, so that what is done in the same turn is sent at
// once. Must not throw.
io::detail::Detached Transmission::send_replies(Transmission& transmission) {
  transmission.sending_ = true;
  co_await io::yield();
  while (transmission.gather(transmission.pieces_) > 0) {
    if (!transmission.broken_ && co_await transmission.channel_.send(transmission.pieces_, {}) != 0) {
      transmission.broken_ = true;
      transmission.channel_.stop_receiving();
    }
    for (Request* request : transmission.being_sent_) transmission.release(*request);
  }
  transmission.sending_ = false;
  transmission.room_.wake_one();
}

}  // namespace cofre::nbd
