// The whole server over sockets and lanes: handshakes of all kinds, clients that are slow, silent or hostile
// beside one that is not, its limits and its end.
#include "export/nbd/server.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <thread>

#include "base/test_seed.h"
#include "export/status_sources.h"
#include "io/backend_fixture.h"
#include "storage/memory.h"
#include "wire_client.h"

namespace cofre::nbd {
namespace {

constexpr uint64_t kDiskBytes = 1 * kMiB;

// A server on lanes of its own; its home lane is a thread.
class RunningServer {
 public:
  explicit RunningServer(ServerSettings settings, io::Backend backend, unsigned lanes = 2)
      : path_(
            (std::filesystem::temp_directory_path() / ("cofre-nbd-" + std::to_string(::getpid()))).string()) {
    std::promise<void> ready;
    std::future<void> is_ready = ready.get_future();
    thread_ = std::thread([this, settings, backend, lanes, ready = std::move(ready)]() mutable {
      io::Lanes all(lanes, backend);
      all.run(serve(all, settings, ready));
    });
    is_ready.get();
  }
  ~RunningServer() { stop(); }
  RunningServer(const RunningServer&) = delete;
  RunningServer& operator=(const RunningServer&) = delete;

  void stop() {
    if (!thread_.joinable()) return;
    stop_.store(true);
    thread_.join();
  }
  const std::string& path() const noexcept { return path_; }
  storage::MemoryDevice& device() noexcept { return device_; }
  int last_clients() const noexcept { return last_clients_.load(); }

 private:
  io::task<void> serve(io::Lanes& lanes, ServerSettings settings, std::promise<void>& ready) {
    auto exported = std::make_shared<exporting::Export>();
    exported->name = "disk";
    exported->description = "for tests";
    exported->device = &device_;
    exported->statuses.push_back(exporting::make_allocation_status(device_));
    exporting::ExportTable exports;
    exports.add(std::move(exported));
    settings.on_last_client = [this] { last_clients_.fetch_add(1); };
    Server server(lanes, exports, std::move(settings));
    server.listen(Listener::on_unix(path_));
    ready.set_value();
    while (!stop_.load()) co_await io::sleep_ns(1'000'000);
    co_await server.stop();
  }

  std::string path_;
  storage::MemoryDevice device_{kDiskBytes};
  std::atomic<bool> stop_ = false;
  std::atomic<int> last_clients_ = 0;
  std::thread thread_;
};

// A client with blocking calls.
class Caller {
 public:
  explicit Caller(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
    path.copy(&address.sun_path[0], sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;
  ~Caller() { ::close(fd_); }

  int fd() const noexcept { return fd_; }
  bool send(const std::vector<std::byte>& bytes) const {
    return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  // Up to `count` bytes; fewer when the server ends.
  std::vector<std::byte> receive(size_t count) const {
    std::vector<std::byte> bytes(count);
    size_t got = 0;
    while (got < count) {
      const ssize_t here = ::recv(fd_, bytes.data() + got, count - got, 0);
      if (here <= 0) break;
      got += static_cast<size_t>(here);
    }
    bytes.resize(got);
    return bytes;
  }
  bool has_ended() const { return receive(1 << 20).size() < 1 << 20; }

  // By NBD_OPT_EXPORT_NAME, up to the transmission phase. Gives the size.
  uint64_t choose(const std::string& name) const {
    EXPECT_EQ(receive(18).size(), 18u);
    std::vector<std::byte> message(4 + 16);
    store_be(message.data(), uint32_t{3});
    store_be(message.data() + 4, kOptionMagic);
    store_be(message.data() + 12, uint32_t{1});
    store_be(message.data() + 16, static_cast<uint32_t>(name.size()));
    const auto bytes = std::as_bytes(std::span(name));
    message.insert(message.end(), bytes.begin(), bytes.end());
    EXPECT_TRUE(send(message));
    const std::vector<std::byte> answer = receive(10);
    return answer.size() == 10 ? load_be<uint64_t>(answer.data()) : 0;
  }
  // Whether a read of the first sector succeeds.
  bool reads() const {
    if (!send(encode_request(HeaderMode::kSimple, 0, 0, 7, 0, 512))) return false;
    const std::vector<std::byte> answer = receive(kSimpleReplyBytes + 512);
    return answer.size() == kSimpleReplyBytes + 512 && load_be<uint32_t>(answer.data() + 4) == 0;
  }

 private:
  int fd_;
};

class Servers : public testing::TestWithParam<std::string> {
 protected:
  io::Backend backend() const {
    return GetParam() == "threads" ? io::Backend::kThreads : io::Backend::kIoUring;
  }
};
INSTANTIATE_TEST_SUITE_P(Nbd, Servers, testing::ValuesIn(io::backend_names(/*with_simulated=*/false)),
                         [](const auto& param) { return param.param; });

TEST_P(Servers, GarbageInHandshakesDisturbsNobody) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  RunningServer server({.handshake_ns = 2'000'000'000}, backend());
  const Caller friendly(server.path());
  EXPECT_EQ(friendly.choose("disk"), kDiskBytes);
  for (int i = 0; i < 200; ++i) {
    const Caller hostile(server.path());
    std::vector<std::byte> bytes(4);
    store_be(bytes.data(), static_cast<uint32_t>(random() % 8 == 0 ? random() : random() % 4));
    for (uint64_t count = random() % 4; count > 0; --count) {
      std::vector<std::byte> option(16);
      store_be(option.data(), random() % 8 == 0 ? random() : kOptionMagic);
      store_be(option.data() + 8, static_cast<uint32_t>(random() % 14));
      const uint32_t said = static_cast<uint32_t>(random() % 6 == 0 ? random() : random() % 200);
      store_be(option.data() + 12, said);
      const size_t sent = random() % 4 == 0 ? random() % 300 : std::min(said, 300u);
      for (size_t j = 0; j < sent; ++j)
        option.push_back(static_cast<std::byte>(random() % 3 == 0 ? random() : 0));
      bytes.insert(bytes.end(), option.begin(), option.end());
    }
    hostile.send(bytes);
    ::shutdown(hostile.fd(), SHUT_WR);
    EXPECT_TRUE(hostile.has_ended());
    if (i % 20 == 0) EXPECT_TRUE(friendly.reads());
  }
  EXPECT_TRUE(friendly.reads());
}

TEST_P(Servers, WhoSaysNothingIsSentAway) {
  RunningServer server({.handshake_ns = 50'000'000}, backend());
  const Caller silent(server.path());
  const Caller slow(server.path());
  slow.send({std::byte{0}, std::byte{0}});
  EXPECT_TRUE(silent.has_ended());
  EXPECT_TRUE(slow.has_ended());
  const Caller friendly(server.path());
  EXPECT_EQ(friendly.choose("disk"), kDiskBytes);
  EXPECT_TRUE(friendly.reads());
}

TEST_P(Servers, MoreClientsThanMayBeWait) {
  RunningServer server({.most_connections = 2}, backend());
  auto first = std::make_unique<Caller>(server.path());
  const Caller second(server.path());
  EXPECT_EQ(first->choose("disk"), kDiskBytes);
  EXPECT_EQ(second.choose("disk"), kDiskBytes);
  const Caller third(server.path());  // in the queue of the socket
  std::future<uint64_t> size = std::async(std::launch::async, [&] { return third.choose("disk"); });
  EXPECT_EQ(size.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  EXPECT_TRUE(first->reads());
  first.reset();
  EXPECT_EQ(size.get(), kDiskBytes);
  EXPECT_TRUE(second.reads());
  EXPECT_TRUE(third.reads());
}

TEST_P(Servers, ATrueClientsEndIsNoticedAndNoOthers) {
  RunningServer server({}, backend());
  {
    const Caller curious(server.path());
  }
  {
    const Caller unknown(server.path());
    EXPECT_EQ(unknown.choose("no such disk"), 0u);
  }
  EXPECT_EQ(server.last_clients(), 0);
  {
    const Caller client(server.path());
    EXPECT_EQ(client.choose("disk"), kDiskBytes);
  }
  for (int i = 0; i < 5000 && server.last_clients() == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(server.last_clients(), 1);
}

// One has sent half a request, one does not read what it asked for, one has said nothing at all.
TEST_P(Servers, ItsEndWaitsForNobodyForEver) {
  RunningServer server({.drain_ns = 100'000'000}, backend());
  const Caller half(server.path());
  EXPECT_EQ(half.choose("disk"), kDiskBytes);
  half.send(std::vector<std::byte>(5));
  const Caller deaf(server.path());
  EXPECT_EQ(deaf.choose("disk"), kDiskBytes);
  for (uint64_t i = 0; i < 30; ++i) deaf.send(encode_request(HeaderMode::kSimple, 0, 0, i, 0, kDiskBytes));
  const Caller silent(server.path());
  server.stop();
  EXPECT_TRUE(half.has_ended());
  EXPECT_TRUE(silent.has_ended());
  EXPECT_FALSE(std::filesystem::exists(server.path()));
}

TEST_P(Servers, ClientsOnAllLanesSeeTheirBytes) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(seed);
  constexpr size_t kClients = 5;
  constexpr uint64_t kPart = kDiskBytes / kClients;
  RunningServer server({}, backend(), 3);
  std::vector<std::thread> threads;
  std::vector<std::vector<std::byte>> models(kClients);
  for (size_t i = 0; i < kClients; ++i)
    threads.emplace_back([&, i] {
      const Caller caller(server.path());
      EXPECT_EQ(caller.choose("disk"), kDiskBytes);
      const std::unique_ptr<io::Reactor> reactor = io::make_reactor(backend());
      WireClient client(caller.fd(), HeaderMode::kSimple, i * kPart, std::vector<std::byte>(kPart), seed + i);
      reactor->run_until_done(client.run(300, 8));
      EXPECT_EQ(client.answers(), 300);
      models[i] = client.model();
    });
  for (std::thread& thread : threads) thread.join();
  server.stop();
  for (size_t i = 0; i < kClients; ++i)
    EXPECT_TRUE(
        std::ranges::equal(models[i], std::span(server.device().content()).subspan(i * kPart, kPart)));
}

TEST(Listeners, ReplaceWhatIsLeftAndRespectWhatIsInUse) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("cofre-listen-" + std::to_string(::getpid()))).string();
  {  // left by a server that was killed
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
    path.copy(&address.sun_path[0], sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    ::close(fd);
  }
  {
    const Listener listener = Listener::on_unix(path, 0600);
    EXPECT_THROW(Listener::on_unix(path), Error);
    const auto rights = std::filesystem::status(path).permissions();
    EXPECT_EQ(static_cast<unsigned>(rights) & 0777u, 0600u);
    EXPECT_THROW(Listener::adopt(STDERR_FILENO), Error);
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  {
    std::FILE* file = std::fopen(path.c_str(), "w");
    ASSERT_NE(file, nullptr);
    std::fclose(file);
  }
  EXPECT_THROW(Listener::on_unix(path), Error);  // no socket: never removed
  EXPECT_TRUE(std::filesystem::remove(path));
  for (const char* bad : {"", "unix:", "tcp:", "tcp:host:", "udp:1:2", "tcp:127.0.0.1:no-such-port"})
    EXPECT_THROW(Listener::on(bad), Error) << bad;
  EXPECT_EQ(Listener::on("tcp:127.0.0.1:0").size(), 1u);
}

}  // namespace
}  // namespace cofre::nbd
