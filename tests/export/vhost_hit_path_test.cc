// What a small request over vhost-user-blk costs: no trip to the heap. (What qcow2 adds: hit_path_test.)
#include <sys/mman.h>

#include "base/units.h"
#include "export/heap_trips.h"
#include "export/vhost_device_thread.h"
#include "export/vhost_random_driver.h"
#include "storage/file.h"

namespace cofre::vhost::testing {
namespace {

constexpr size_t kDepth = 32;
constexpr uint32_t kBlockBytes = 4096;

class VhostHitPath : public ::testing::TestWithParam<Kind> {
 protected:
  VhostHitPath() : disk_(::memfd_create("disk", MFD_CLOEXEC)) {
    counts_trips = false;  // the driver's thread is not what is measured
    if (::ftruncate(disk_.get(), 8 * kMiB) != 0) throw std::runtime_error("ftruncate");
    device_ = storage::FileDevice::open("/proc/self/fd/" + std::to_string(disk_.get()), {});
    for (size_t i = 0; i < kDepth; ++i) requests_.emplace_back(memory_, kBlockBytes);
  }

  void run_round(DriverQueue& queue, RequestType type, bool indirect) {
    for (size_t i = 0; i < kDepth; ++i)
      ASSERT_TRUE(queue.add(requests_[i].make(type, i * 37 * 8, kBlockBytes), indirect));
    if (queue.publish()) queue.kick();
    for (size_t done = 0; done < kDepth;) {
      if (queue.take_used()) {
        ++done;
      } else {
        std::this_thread::yield();
      }
    }
    for (const BlockRequest& request : requests_) ASSERT_EQ(request.status(), RequestStatus::kOk);
  }

  OwnedFd disk_;
  std::unique_ptr<storage::FileDevice> device_;
  TestMemory memory_{16 * kMiB};
  std::vector<BlockRequest> requests_;
};

TEST_P(VhostHitPath, TakesNothingFromTheHeap) {
  for (const bool private_reads : {false, true}) {
    SocketPair pair;
    DeviceThread thread(*device_, std::move(pair.device), {.private_reads = private_reads, .queues = 1});
    FrontEnd front_end(std::move(pair.front_end));
    front_end.negotiate((GetParam().packed ? 0 : feature::kRingPacked) |
                        (GetParam().event_index ? 0 : feature::kEventIndex));
    front_end.share(memory_);
    DriverQueue queue(memory_, 128, {GetParam().packed, GetParam().event_index});
    const InflightDescription wanted = {.map_size = 0, .map_offset = 0, .queues = 1, .queue_size = 128};
    const Reply area = front_end.ask(Message::kGetInflightFd, bytes_of(wanted));
    const std::array<int, 1> fd = {area.descriptors.at(0).get()};
    front_end.send_value(Message::kSetInflightFd, area.as<InflightDescription>(), fd);
    front_end.set_up(0, queue, FrontEnd::first_base(GetParam().packed));
    for (const RequestType type : {RequestType::kIn, RequestType::kOut}) {
      for (const bool indirect : {false, true}) {
        for (int i = 0; i < 20; ++i) run_round(queue, type, indirect);
        const uint64_t before = trips_to_the_heap.load();
        EXPECT_GT(before, 0u);  // they are counted
        for (int i = 0; i < 100; ++i) run_round(queue, type, indirect);
        EXPECT_EQ(trips_to_the_heap.load() - before, 0u)
            << static_cast<int>(type) << (indirect ? " indirect" : "") << (private_reads ? " private" : "");
      }
    }
    front_end.hang_up();
  }
}

INSTANTIATE_TEST_SUITE_P(Rings, VhostHitPath, ::testing::ValuesIn(kKinds), kind_name);

}  // namespace
}  // namespace cofre::vhost::testing
