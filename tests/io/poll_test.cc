// Waiting for descriptors, and sockets: on every backend.
#include <sys/eventfd.h>
#include <sys/un.h>

#include <array>
#include <string>
#include <thread>

#include "io/backend_fixture.h"
#include "io/socket.h"
#include "io/sync.h"

namespace cofre::io {
namespace {

using Polls = OnBackend;
INSTANTIATE_TEST_SUITE_P(Io, Polls, testing::ValuesIn(backend_names()),
                         [](const auto& param) { return param.param; });

struct SocketPair {
  SocketPair() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0); }
  SocketPair(const SocketPair&) = delete;
  SocketPair& operator=(const SocketPair&) = delete;
  ~SocketPair() {
    for (const int end : ends)
      if (end >= 0) close(end);
  }
  std::array<int, 2> ends;
};

task<void> signal_later(int fd) {
  for (int i = 0; i < 3; ++i) co_await yield();
  const uint64_t one = 1;
  EXPECT_EQ(write(fd, &one, sizeof one), 8);
}
task<void> wait_and_note(int fd, int64_t& events) {
  events = co_await async_readable(fd);
}
task<void> wait_for_signal(int fd, int64_t& events) {
  TaskGroup group;
  group.spawn(wait_and_note(fd, events));
  group.spawn(signal_later(fd));
  co_await group.join();
}

TEST_P(Polls, AnEventfdWakesItsWaiter) {
  const int fd = eventfd(0, EFD_CLOEXEC);
  int64_t events = 0;
  reactor_.run_until_done(wait_for_signal(fd, events));
  EXPECT_EQ(events, POLLIN);
  close(fd);
}

TEST_P(Polls, WaitersOfOneDescriptorDoNotDisturbEachOther) {
  const SocketPair pair;
  struct Both {
    static task<void> run(const SocketPair& pair, Cancel& cancel, int64_t& readable, int64_t& writable) {
      TaskGroup group;
      group.spawn(wait(pair.ends[0], POLLIN, &cancel, readable));
      group.spawn(wait(pair.ends[0], POLLOUT, nullptr, writable));
      co_await yield();
      co_await yield();
      cancel.request();
      co_await group.join();
    }
    static task<void> wait(int fd, int events, Cancel* cancel, int64_t& result) {
      result = co_await async_poll(fd, events, cancel);
    }
  };
  Cancel cancel;
  int64_t readable = 0;
  int64_t writable = 0;
  reactor_.run_until_done(Both::run(pair, cancel, readable, writable));
  EXPECT_EQ(readable, -ECANCELED);
  EXPECT_EQ(writable, POLLOUT);
}

task<int64_t> poll_for(int fd, uint64_t timeout_ns, Cancel* cancel) {
  co_return co_await async_poll(fd, POLLIN, cancel, timeout_ns);
}

TEST_P(Polls, TimeIsOverAndDescriptorsAreChecked) {
  const SocketPair pair;
  EXPECT_EQ(reactor_.run_until_done(poll_for(pair.ends[0], 1'000'000, nullptr)), -ETIME);
  Cancel cancel;
  cancel.request();
  EXPECT_EQ(reactor_.run_until_done(poll_for(pair.ends[0], 0, &cancel)), -ECANCELED);
  EXPECT_EQ(reactor_.run_until_done(poll_for(100'000, 0, nullptr)), -EBADF);
  // A limit that is not reached changes nothing, and is gone with the wait.
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(write(pair.ends[1], "x", 1), 1);
    EXPECT_EQ(reactor_.run_until_done(poll_for(pair.ends[0], 3'600'000'000'000, nullptr)), POLLIN);
    char byte = 0;
    ASSERT_EQ(read(pair.ends[0], &byte, 1), 1);
  }
}

task<void> cancel_many(const SocketPair& pair, std::array<Cancel, 400>& cancels, int& cancelled) {
  struct One {
    static task<void> wait(int fd, Cancel& cancel, uint64_t timeout_ns, int& count) {
      if (co_await async_poll(fd, POLLIN, &cancel, timeout_ns) == -ECANCELED) ++count;
    }
  };
  TaskGroup group;
  // More than the ring of io_uring holds, with and without a limit.
  for (size_t i = 0; i < cancels.size(); ++i)
    group.spawn(One::wait(pair.ends[0], cancels[i], i % 2 * 3'600'000'000'000, cancelled));
  co_await yield();
  for (Cancel& cancel : cancels) cancel.request();
  co_await group.join();
}

TEST_P(Polls, HundredsAreCalledBack) {
  const SocketPair pair;
  std::array<Cancel, 400> cancels;
  int cancelled = 0;
  reactor_.run_until_done(cancel_many(pair, cancels, cancelled));
  EXPECT_EQ(cancelled, 400);
}

task<void> send_text(int fd, std::string text) {
  EXPECT_EQ(co_await send_all(fd, std::as_bytes(std::span(text))), 0);
  ::shutdown(fd, SHUT_WR);
}
task<void> receive_text(int fd, std::string& into) {
  std::array<char, 5000> buffer;
  while (true) {
    const int64_t got = co_await receive(fd, std::as_writable_bytes(std::span(buffer)));
    EXPECT_GE(got, 0);
    if (got <= 0) co_return;
    into.append(buffer.data(), static_cast<size_t>(got));
  }
}
task<void> transfer_text(const SocketPair& pair, const std::string& text, std::string& got) {
  TaskGroup group;
  group.spawn(send_text(pair.ends[0], text));
  group.spawn(receive_text(pair.ends[1], got));
  co_await group.join();
}

TEST_P(Polls, ALongTextGoesThroughASocket) {
  const SocketPair pair;
  std::string text;
  for (int i = 0; text.size() < 4'000'000; ++i) text += std::to_string(i) + " ";
  std::string got;
  reactor_.run_until_done(transfer_text(pair, text, got));
  EXPECT_EQ(got, text);
}

task<int64_t> receive_once(int fd, Deadline deadline) {
  std::array<std::byte, 16> buffer;
  co_return co_await receive(fd, buffer, nullptr, deadline);
}
task<int64_t> send_once(int fd) {
  co_return co_await send_all(fd, std::as_bytes(std::span("text", 4)));
}

TEST_P(Polls, SocketsGiveTheirErrors) {
  const SocketPair pair;
  EXPECT_EQ(reactor_.run_until_done(receive_once(pair.ends[0], Deadline::after_ns(1))), -ETIME);
  ::shutdown(pair.ends[1], SHUT_RDWR);
  EXPECT_EQ(reactor_.run_until_done(receive_once(pair.ends[0], {})), 0);
  EXPECT_EQ(reactor_.run_until_done(send_once(pair.ends[0])), -EPIPE);  // and no signal
  EXPECT_EQ(reactor_.run_until_done(receive_once(-1, {})), -EBADF);
}

int listen_somewhere(sockaddr_un& address) {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  address = {.sun_family = AF_UNIX, .sun_path = {}};
  const std::string name = "cofre-poll-test-" + std::to_string(getpid());
  name.copy(&address.sun_path[1], name.size());  // an abstract name: nothing to remove
  EXPECT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(listen(fd, 4), 0);
  return fd;
}
task<void> connect_later(sockaddr_un address, int& fd) {
  co_await yield();
  fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
}
task<void> accept_and_note(int fd, Cancel* cancel, int64_t& result) {
  result = co_await accept(fd, cancel);
}
task<void> accept_two(int listening, sockaddr_un address, int& client, int64_t& accepted,
                      int64_t& cancelled) {
  TaskGroup group;
  group.spawn(accept_and_note(listening, nullptr, accepted));
  group.spawn(connect_later(address, client));
  co_await group.join();
  Cancel cancel;
  group.spawn(accept_and_note(listening, &cancel, cancelled));
  co_await yield();
  cancel.request();
  co_await group.join();
}

TEST_P(Polls, ConnectionsAreAcceptedUntilCancelled) {
  sockaddr_un address;
  const int listening = listen_somewhere(address);
  int client = -1;
  int64_t accepted = -1;
  int64_t cancelled = 0;
  reactor_.run_until_done(accept_two(listening, address, client, accepted, cancelled));
  EXPECT_GE(accepted, 0);
  EXPECT_EQ(cancelled, -ECANCELED);
  for (const int fd : {listening, client, static_cast<int>(accepted)}) close(fd);
}

}  // namespace
}  // namespace cofre::io
