// The transmission phase: several clients with random requests against a model, on every backend, and in the
// orders of many seeds; garbage; failures of the image.
#include "export/nbd/transmission.h"

#include <sys/socket.h>

#include <array>

#include "base/test_seed.h"
#include "export/status_sources.h"
#include "io/backend_fixture.h"
#include "layer/align.h"
#include "layer/fault.h"
#include "storage/memory.h"
#include "wire_client.h"

namespace cofre::nbd {
namespace {

constexpr uint64_t kPartBytes = 300'000;
constexpr size_t kClients = 3;

class SocketPair {
 public:
  SocketPair() { EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_.data()), 0); }
  SocketPair(const SocketPair&) = delete;
  SocketPair& operator=(const SocketPair&) = delete;
  ~SocketPair() {
    for (const int end : ends_) ::close(end);
  }
  int server() const noexcept { return ends_[0]; }
  int client() const noexcept { return ends_[1]; }

 private:
  std::array<int, 2> ends_;
};

std::shared_ptr<exporting::Export> export_of(block::Device& device) {
  auto made = std::make_shared<exporting::Export>();
  made->device = &device;
  made->statuses.push_back(exporting::make_allocation_status(device));
  return made;
}

// The server's end of one connection: everything that outlives its coroutine.
struct Served {
  SocketPair sockets = {};
  io::Cancel cancel = {};
  std::unique_ptr<Channel> channel = make_socket_channel(sockets.server(), cancel);
  int faults = 0;

  io::task<void> run(Negotiated agreed, Budget& budget, TransmissionLimits limits) {
    Transmission transmission(*channel, std::move(agreed), budget, limits,
                              [this](const Error&) { ++faults; });
    co_await transmission.run();
    ::shutdown(sockets.server(), SHUT_RDWR);
  }
};

struct Scene {
  block::Device& device;
  HeaderMode mode;
  TransmissionLimits limits;
  uint64_t budget_bytes;
  uint64_t seed;
  int requests;
};

io::task<void> random_clients(Scene scene, std::vector<std::byte>& content) {
  Budget budget(scene.budget_bytes);
  std::array<Served, kClients> served;
  std::vector<std::unique_ptr<WireClient>> clients;
  io::TaskGroup group;
  for (size_t i = 0; i < kClients; ++i) {
    Negotiated agreed = {.exported = export_of(scene.device), .mode = scene.mode};
    group.spawn(served[i].run(std::move(agreed), budget, scene.limits));
    const auto part = std::span(content).subspan(i * kPartBytes, kPartBytes);
    clients.push_back(std::make_unique<WireClient>(served[i].sockets.client(), scene.mode, i * kPartBytes,
                                                   std::vector<std::byte>(part.begin(), part.end()),
                                                   scene.seed + i));
    group.spawn(clients.back()->run(scene.requests, 1 + i * 8));
  }
  co_await group.join();
  for (size_t i = 0; i < kClients; ++i) {
    EXPECT_EQ(clients[i]->answers(), scene.requests);
    std::ranges::copy(clients[i]->model(), content.begin() + static_cast<ptrdiff_t>(i * kPartBytes));
  }
}

std::vector<std::byte> random_content(std::mt19937_64& random) {
  std::vector<std::byte> content(kClients * kPartBytes);
  for (std::byte& byte : content) byte = static_cast<std::byte>(random());
  return content;
}

void exercise(io::Reactor& reactor, HeaderMode mode, uint64_t seed, int requests, TransmissionLimits limits,
              uint64_t budget_bytes) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> content = random_content(random);
  auto memory = std::make_unique<storage::MemoryDevice>(content.size());
  storage::MemoryDevice& below = *memory;
  below.content() = content;
  below.mutable_limits().request_alignment = 512;
  const auto device = layer::make_aligning(std::move(memory), 1);
  reactor.run_until_done(random_clients({.device = *device,
                                         .mode = mode,
                                         .limits = limits,
                                         .budget_bytes = budget_bytes,
                                         .seed = seed,
                                         .requests = requests},
                                        content));
  EXPECT_TRUE(below.content() == content);
}

constexpr auto kModes = std::to_array({HeaderMode::kSimple, HeaderMode::kStructured, HeaderMode::kExtended});

using Transmissions = io::OnBackend;
INSTANTIATE_TEST_SUITE_P(Nbd, Transmissions, testing::ValuesIn(io::backend_names()),
                         [](const auto& param) { return param.param; });

TEST_P(Transmissions, SeveralClientsSeeTheirBytes) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(seed);
  for (const HeaderMode mode : kModes) exercise(reactor_, mode, seed, 400, {}, kGiB);
}

TEST_P(Transmissions, NarrowLimitsOnlyMakeThemWait) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(seed);
  for (const HeaderMode mode : kModes)
    exercise(reactor_, mode, seed, 300, {.requests = 2, .connection_bytes = 10'000}, 1);
}

TEST(Simulated, AnyOrderOfCompletionsWillDo) {
  const uint64_t seed = test_seed();
  for (uint64_t i = 0; i < 20; ++i) {
    SCOPED_TRACE(seed + i);
    io::SimulatedReactor reactor(seed + i, /*short_transfers=*/true);
    exercise(reactor, kModes[i % kModes.size()], seed + i, 60, {.requests = 5, .connection_bytes = 50'000},
             kMiB);
  }
}

// ---- garbage ----

io::task<void> send_and_end(int fd, std::vector<std::byte> bytes) {
  co_await io::send_all(fd, bytes);
  ::shutdown(fd, SHUT_WR);
  std::array<std::byte, 4096> sink;
  while (co_await io::receive(fd, sink) > 0) {
  }
}

io::task<void> transmit_garbage(block::Device& device, HeaderMode mode, std::vector<std::byte> bytes) {
  Budget budget(kMiB);
  Served served;
  io::TaskGroup group;
  Negotiated agreed = {.exported = export_of(device), .mode = mode};
  group.spawn(served.run(std::move(agreed), budget, {}));
  group.spawn(send_and_end(served.sockets.client(), std::move(bytes)));
  co_await group.join();
}

TEST_P(Transmissions, GarbageEndsTheConnectionAndNothingElse) {
  const uint64_t seed = test_seed();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  storage::MemoryDevice device(kPartBytes);
  for (int i = 0; i < 300; ++i) {
    const HeaderMode mode = kModes[random() % kModes.size()];
    std::vector<std::byte> bytes;
    // Requests of any kind, flags, offset and length, perhaps cut off, perhaps with noise between them.
    for (uint64_t count = random() % 6; count > 0; --count) {
      const uint64_t length = random() % 3 == 0 ? random() : random() % 5000;
      const auto request =
          encode_request(mode, static_cast<uint16_t>(random() % 64), static_cast<uint16_t>(random() % 10),
                         random(), random() % 2 == 0 ? random() : random() % kPartBytes, length);
      bytes.insert(bytes.end(), request.begin(), request.end());
      if (random() % 3 == 0) bytes.resize(bytes.size() + random() % 6000, std::byte{0x5a});
    }
    if (!bytes.empty() && random() % 3 == 0) bytes.resize(random() % bytes.size());
    reactor_.run_until_done(transmit_garbage(device, mode, std::move(bytes)));
  }
}

// A client that asks for all it can and reads nothing, then is gone: nothing of it stays.
io::task<void> ask_and_leave(int fd) {
  for (uint64_t i = 0; i < 40; ++i) {
    const auto request = encode_request(HeaderMode::kSimple, 0, 0, i, 0, kPartBytes);
    co_await io::send_all(fd, request);
  }
  for (int i = 0; i < 100; ++i) co_await io::yield();
  ::shutdown(fd, SHUT_RDWR);
}

io::task<void> deaf_client(block::Device& device, int& faults) {
  Budget budget(2 * kPartBytes);
  Served served;
  {
    io::TaskGroup group;
    Negotiated agreed = {.exported = export_of(device), .mode = HeaderMode::kSimple};
    group.spawn(served.run(std::move(agreed), budget, {}));
    group.spawn(ask_and_leave(served.sockets.client()));
    co_await group.join();
  }
  co_await budget.acquire(2 * kPartBytes);  // all of it is back, or this waits for ever
  faults = served.faults;
}

TEST_P(Transmissions, AClientThatReadsNothingLeavesNothingBehind) {
  storage::MemoryDevice device(kPartBytes);
  for (std::byte& byte : device.content()) byte = std::byte{1};
  int faults = -1;
  reactor_.run_until_done(deaf_client(device, faults));
  EXPECT_EQ(faults, 0);
}

// ---- failures below ----

io::task<std::vector<uint32_t>> errors_of(block::Device& device, bool read_only,
                                          std::vector<std::pair<Command, uint16_t>> commands) {
  Budget budget(kMiB);
  Served served;
  io::TaskGroup group;
  std::shared_ptr<exporting::Export> exported = export_of(device);
  exported->read_only = read_only;
  group.spawn(served.run({.exported = exported, .mode = HeaderMode::kSimple}, budget, {}));
  std::vector<uint32_t> errors;
  for (const auto& [command, flags] : commands) {
    std::vector<std::byte> bytes =
        encode_request(HeaderMode::kSimple, flags, static_cast<uint16_t>(command), 1, 0, 4096);
    if (command == Command::kWrite) bytes.resize(bytes.size() + 4096);
    co_await io::send_all(served.sockets.client(), bytes);
    std::array<std::byte, kSimpleReplyBytes> reply;
    EXPECT_EQ(co_await io::receive(served.sockets.client(), reply), 16);
    errors.push_back(load_be<uint32_t>(reply.data() + 4));
  }
  ::shutdown(served.sockets.client(), SHUT_RDWR);
  co_await group.join();
  co_return errors;
}

TEST_P(Transmissions, ErrorsBelowBecomeThoseOfTheProtocol) {
  auto memory = std::make_unique<storage::MemoryDevice>(kPartBytes);
  storage::MemoryDevice& below = *memory;
  const auto device = layer::make_aligning(std::move(memory), 1);
  EXPECT_EQ(
      reactor_.run_until_done(errors_of(
          *device, /*read_only=*/true,
          {{Command::kWrite, 0}, {Command::kTrim, 0}, {Command::kWriteZeroes, 0}, {Command::kFlush, 0}})),
      (std::vector<uint32_t>{1, 1, 1, 0}));
  below.mutable_limits().read_only = true;
  EXPECT_EQ(reactor_.run_until_done(errors_of(*device, /*read_only=*/false, {{Command::kWrite, 0}})),
            (std::vector<uint32_t>{1}));
}

}  // namespace
}  // namespace cofre::nbd
