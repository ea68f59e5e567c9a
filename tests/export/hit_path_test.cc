// What a small request to an allocated cluster costs: no trip to the heap, and no lock on metadata.
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

#include "block/borrowed.h"
#include "export/heap_trips.h"
#include "export/nbd/transmission.h"
#include "format/qcow2/create.h"
#include "format/qcow2/image.h"
#include "format/qcow2/state.h"
#include "io/backend_fixture.h"
#include "layer/align.h"
#include "storage/file.h"
#include "wire_client.h"

namespace cofre::nbd {
namespace {

constexpr uint64_t kDiskBytes = 8 * kMiB;
constexpr size_t kDepth = 32;
constexpr uint64_t kBlockBytes = 4096;

// A client that has all its memory before it begins.
class Rounds {
 public:
  Rounds(int fd, HeaderMode mode, Command command)
      : fd_(fd),
        reply_bytes_(kDepth * (command == Command::kRead ? chunk_header_bytes(mode) + 8 + kBlockBytes
                                                         : chunk_header_bytes(mode))) {
    for (size_t i = 0; i < kDepth; ++i) {
      const auto request =
          encode_request(mode, 0, static_cast<uint16_t>(command), i, i * 37 * kBlockBytes, kBlockBytes);
      bytes_.insert(bytes_.end(), request.begin(), request.end());
      if (command == Command::kWrite) bytes_.resize(bytes_.size() + kBlockBytes, std::byte{0x42});
    }
    replies_.resize(reply_bytes_);
  }

  io::task<void> run(int rounds) {
    for (int i = 0; i < rounds; ++i) {
      io::TaskGroup group;
      group.spawn(send());
      group.spawn(receive());
      co_await group.join();
    }
  }

 private:
  io::task<void> send() { EXPECT_EQ(co_await io::send_all(fd_, bytes_), 0); }
  io::task<void> receive() {
    for (size_t got = 0; got < reply_bytes_;) {
      const int64_t count = co_await io::receive(fd_, std::span(replies_).subspan(got));
      EXPECT_GT(count, 0);
      if (count <= 0) co_return;
      got += static_cast<size_t>(count);
    }
  }

  int fd_;
  size_t reply_bytes_;
  std::vector<std::byte> bytes_;
  std::vector<std::byte> replies_;
};

struct Counted {
  uint64_t trips = 0;
  int faults = 0;
};

io::task<void> serve(Channel& channel, Negotiated agreed, Budget& budget, int& faults) {
  exporting::Activity& activity = *agreed.exported->activity;
  Transmission transmission(
      channel, std::move(agreed), budget, {}, [&faults](const Error&) { ++faults; }, &activity.lane(0));
  co_await transmission.run();
}

// The trips to the heap of a hundred rounds, during which somebody else holds the image's metadata.
io::task<void> count_rounds(Rounds& rounds, qcow2::Image& image, Counted& counted) {
  co_await rounds.run(20);
  const io::Mutex::Guard guard = co_await image.state().metadata.lock();
  const uint64_t before = trips_to_the_heap.load();
  EXPECT_GT(before, 0u);  // they are counted
  co_await rounds.run(100);
  counted.trips = trips_to_the_heap.load() - before;
}

io::task<std::unique_ptr<qcow2::Image>> make_image(const std::string& path, qcow2::CryptMethod method) {
  const std::string key = "sixteen bytes...";
  auto file = storage::FileDevice::open(path, {});
  qcow2::CreateOptions options;
  options.size_bytes = kDiskBytes;
  options.encryption = method;
  co_await qcow2::create_image(*file, options, std::as_bytes(std::span(key)));
  auto image = co_await qcow2::Image::open(std::move(file), {});
  if (image->needs_secret()) co_await image->unlock(std::as_bytes(std::span(key)));
  const std::vector<std::byte> content(kDiskBytes, std::byte{0x17});
  co_await image->write(0, content);
  co_await image->flush();
  co_return image;
}

io::task<Counted> count(const std::string& path, qcow2::CryptMethod method, Command command) {
  std::unique_ptr<qcow2::Image> image = co_await make_image(path, method);
  qcow2::Image& below = *image;
  const std::unique_ptr<block::Device> device = layer::make_aligning(std::move(image), 1);
  auto exported = std::make_shared<exporting::Export>();
  exported->device = device.get();
  exported->activity = std::make_shared<exporting::Activity>(1);
  std::array<int, 2> ends;
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  io::Cancel cancel;
  const auto channel = make_socket_channel(ends[0], cancel);
  Budget budget(kMiB);
  Counted counted;
  io::TaskGroup group;
  group.spawn(
      serve(*channel, {.exported = exported, .mode = HeaderMode::kStructured}, budget, counted.faults));
  Rounds rounds(ends[1], HeaderMode::kStructured, command);
  co_await count_rounds(rounds, below, counted);
  ::close(ends[1]);
  co_await group.join();
  ::close(ends[0]);
  const exporting::Op op = command == Command::kRead ? exporting::Op::kRead : exporting::Op::kWrite;
  EXPECT_EQ(exported->activity->totals(op).requests, 120 * kDepth);
  co_await device->close();
  co_return counted;
}

using HitPath = io::OnBackend;
INSTANTIATE_TEST_SUITE_P(Nbd, HitPath, testing::ValuesIn(io::backend_names(/*with_simulated=*/false)),
                         [](const auto& param) { return param.param; });

TEST_P(HitPath, TakesNothingFromTheHeapAndNoLock) {
  const int fd = memfd_create("cofre-hit-path", MFD_CLOEXEC);
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  for (const qcow2::CryptMethod method : {qcow2::CryptMethod::kNone, qcow2::CryptMethod::kAes})
    for (const Command command : {Command::kRead, Command::kWrite}) {
      ASSERT_EQ(ftruncate(fd, 0), 0);
      const Counted counted = reactor_.run_until_done(count(path, method, command));
      EXPECT_EQ(counted.trips, 0u) << "command " << static_cast<int>(command);
      EXPECT_EQ(counted.faults, 0);
    }
  close(fd);
}

}  // namespace
}  // namespace cofre::nbd
