// The client's side of the transmission phase, for tests: random requests against a model, as coroutines.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "export/nbd/protocol.h"
#include "io/socket.h"
#include "io/sync.h"

namespace cofre::nbd {

inline std::vector<std::byte> encode_request(HeaderMode mode, uint16_t flags, uint16_t command,
                                             uint64_t cookie, uint64_t offset, uint64_t length) {
  std::vector<std::byte> bytes(request_header_bytes(mode));
  const bool extended = mode == HeaderMode::kExtended;
  store_be(bytes.data(), extended ? uint32_t{0x21e41c71} : uint32_t{0x25609513});
  store_be(bytes.data() + 4, flags);
  store_be(bytes.data() + 6, command);
  store_be(bytes.data() + 8, cookie);
  store_be(bytes.data() + 16, offset);
  if (extended) {
    store_be(bytes.data() + 24, length);
  } else {
    store_be(bytes.data() + 24, static_cast<uint32_t>(length));
  }
  return bytes;
}

// Sends `count` requests within [begin, begin + model.size()), `depth` of which may be in flight, none of
// them overlapping, and checks every answer.
class WireClient {
 public:
  WireClient(int fd, HeaderMode mode, uint64_t begin, std::vector<std::byte> model, uint64_t seed)
      : fd_(fd), mode_(mode), begin_(begin), model_(std::move(model)), random_(seed) {}

  io::task<void> run(int count, size_t depth) {
    io::TaskGroup group;
    group.spawn(send_requests(count, depth));
    group.spawn(receive_replies());
    co_await group.join();
  }

  const std::vector<std::byte>& model() const noexcept { return model_; }
  int answers() const noexcept { return answers_; }

 private:
  struct Pending {
    uint16_t command = 0;
    uint64_t offset = 0;  // in the model
    uint64_t length = 0;
    std::vector<std::byte> expected = {};
    Fault fault = Fault::kNone;
  };

  bool overlaps(uint64_t offset, uint64_t length) const {
    return std::ranges::any_of(pending_, [&](const auto& entry) {
      const Pending& other = entry.second;
      return offset < other.offset + other.length && other.offset < offset + length;
    });
  }

  // A part that nothing in flight touches; empty if none is found.
  std::pair<uint64_t, uint64_t> choose_range() {
    for (int i = 0; i < 20; ++i) {
      const uint64_t most = random_() % 8 == 0 ? 150'000 : random_() % 2 == 0 ? 4096 : 20'000;
      const uint64_t offset = random_() % model_.size();
      const uint64_t length = 1 + random_() % std::min<uint64_t>(most, model_.size() - offset);
      if (!overlaps(offset, length)) return {offset, length};
    }
    return {0, 0};
  }

  Pending choose_request(uint16_t& flags) {
    const auto [offset, length] = choose_range();
    Pending pending = {.command = static_cast<uint16_t>(Command::kFlush), .offset = offset, .length = length};
    flags = random_() % 8 == 0 ? command_flag::kFua : 0;
    if (length == 0) return pending;
    switch (random_() % 10) {
      case 0:
        pending.command = static_cast<uint16_t>(Command::kWriteZeroes);
        if (random_() % 2 == 0) flags |= command_flag::kNoHole;
        std::fill_n(model_.begin() + static_cast<ptrdiff_t>(offset), length, std::byte{0});
        break;
      case 1:
        pending.command = static_cast<uint16_t>(Command::kCache);
        break;
      case 2:  // wrong ones: unknown, with a flag that is not for it, past the end
        pending.command = static_cast<uint16_t>(random_() % 2 == 0 ? 99 : 0);
        if (pending.command == 0) flags |= command_flag::kNoHole;
        pending.fault = Fault::kInvalid;
        break;
      case 3:
      case 4:
      case 5:
        pending.command = static_cast<uint16_t>(Command::kRead);
        pending.expected.assign(model_.begin() + static_cast<ptrdiff_t>(offset),
                                model_.begin() + static_cast<ptrdiff_t>(offset + length));
        break;
      default:
        pending.command = static_cast<uint16_t>(Command::kWrite);
        for (uint64_t i = 0; i < length; ++i)
          model_[offset + i] = static_cast<std::byte>(random_() % 16 == 0 ? random_() : i);
        break;
    }
    return pending;
  }

  io::task<void> send_requests(int count, size_t depth) {
    for (int i = 0; i < count; ++i) {
      while (pending_.size() >= depth) co_await io::yield();
      uint16_t flags = 0;
      const Pending pending = choose_request(flags);
      const uint64_t cookie = random_();
      const bool writes = pending.command == static_cast<uint16_t>(Command::kWrite);
      if (writes && mode_ == HeaderMode::kExtended) flags |= command_flag::kPayloadLength;
      const bool flushes = pending.command == static_cast<uint16_t>(Command::kFlush);
      std::vector<std::byte> bytes =
          encode_request(mode_, flags, pending.command, cookie, flushes ? 0 : begin_ + pending.offset,
                         flushes ? 0 : pending.length);
      if (writes)
        bytes.insert(bytes.end(), model_.begin() + static_cast<ptrdiff_t>(pending.offset),
                     model_.begin() + static_cast<ptrdiff_t>(pending.offset + pending.length));
      pending_.emplace(cookie, pending);
      // Sometimes in pieces, as a network delivers them.
      const size_t cut = random_() % 4 == 0 ? random_() % bytes.size() : 0;
      EXPECT_EQ(co_await io::send_all(fd_, std::span(bytes).first(cut)), 0);
      if (cut > 0) co_await io::yield();
      EXPECT_EQ(co_await io::send_all(fd_, std::span(bytes).subspan(cut)), 0);
    }
    while (!pending_.empty()) co_await io::yield();
    const auto goodbye = encode_request(mode_, 0, static_cast<uint16_t>(Command::kDisconnect), 0, 0, 0);
    EXPECT_EQ(co_await io::send_all(fd_, goodbye), 0);
  }

  // False: the server closed the connection.
  io::task<bool> receive_exactly(Bytes into) {
    while (!into.empty()) {
      const int64_t got = co_await io::receive(fd_, into);
      if (got <= 0) co_return false;
      into = into.subspan(static_cast<size_t>(got));
    }
    co_return true;
  }

  io::task<void> receive_replies() {
    while (co_await receive_reply()) ++answers_;
    EXPECT_TRUE(pending_.empty());
  }

  io::task<bool> receive_reply() {
    std::vector<std::byte> header(mode_ == HeaderMode::kSimple ? kSimpleReplyBytes
                                                               : chunk_header_bytes(mode_));
    if (!co_await receive_exactly(header)) co_return false;
    const auto found = pending_.find(load_be<uint64_t>(header.data() + 8));
    if (found == pending_.end()) {
      ADD_FAILURE() << "an answer to nothing";
      co_return false;
    }
    const Pending pending = found->second;
    const bool good = mode_ == HeaderMode::kSimple ? co_await take_simple(header, pending)
                                                   : co_await take_chunk(header, pending);
    pending_.erase(pending_.find(load_be<uint64_t>(header.data() + 8)));
    co_return good;
  }

  io::task<bool> take_simple(ConstBytes header, const Pending& pending) {
    EXPECT_EQ(load_be<uint32_t>(header.data()), 0x67446698u);
    const auto error = load_be<uint32_t>(header.data() + 4);
    EXPECT_EQ(error, static_cast<uint32_t>(pending.fault));
    if (error != 0 || pending.expected.empty()) co_return true;
    std::vector<std::byte> data(pending.expected.size());
    if (!co_await receive_exactly(data)) co_return false;
    EXPECT_TRUE(data == pending.expected) << "at " << pending.offset << ", " << pending.length << " bytes";
    co_return true;
  }

  io::task<bool> take_chunk(ConstBytes header, const Pending& pending) {
    const bool extended = mode_ == HeaderMode::kExtended;
    EXPECT_EQ(load_be<uint32_t>(header.data()), extended ? 0x6e8a278cu : 0x668e33efu);
    EXPECT_EQ(load_be<uint16_t>(header.data() + 4), kChunkDone);
    const auto type = static_cast<Chunk>(load_be<uint16_t>(header.data() + 6));
    const uint64_t length =
        extended ? load_be<uint64_t>(header.data() + 24) : load_be<uint32_t>(header.data() + 16);
    std::vector<std::byte> payload(length);
    if (!co_await receive_exactly(payload)) co_return false;
    if (pending.fault != Fault::kNone) {
      EXPECT_EQ(type, Chunk::kError);
      EXPECT_EQ(load_be<uint32_t>(payload.data()), static_cast<uint32_t>(pending.fault));
    } else if (pending.expected.empty()) {
      EXPECT_EQ(type, Chunk::kNone);
    } else {
      EXPECT_EQ(load_be<uint64_t>(payload.data()), begin_ + pending.offset);
      if (type == Chunk::kOffsetHole) {
        EXPECT_EQ(load_be<uint32_t>(payload.data() + 8), pending.expected.size());
        EXPECT_TRUE(is_zero(pending.expected));
      } else {
        EXPECT_EQ(type, Chunk::kOffsetData);
        EXPECT_TRUE(std::ranges::equal(std::span(payload).subspan(8), pending.expected));
      }
    }
    co_return true;
  }

  int fd_;
  HeaderMode mode_;
  uint64_t begin_;
  std::vector<std::byte> model_;
  std::mt19937_64 random_;
  std::map<uint64_t, Pending> pending_;
  int answers_ = 0;
};

}  // namespace cofre::nbd
