// One image used from several lanes at once: each client writes, zeroes and reads back a part of
// its own, parts that share clusters and tables.
#include "io/lanes.h"

#include <algorithm>

#include "block/checked.h"
#include "io/sync.h"
#include "support.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint64_t kSize = 2 * kMiB;
constexpr int kClients = 8;

struct Client {
  uint64_t begin;
  std::vector<std::byte> model;
  std::mt19937_64 random;
};

// The whole clusters of a range that this client may write compressed; empty if there are none.
std::span<std::byte> whole_clusters(const Image& image, std::span<std::byte> part, uint64_t& offset) {
  const uint64_t bytes = image.limits().compressed_unit_bytes;
  if (bytes == 0) return {};
  const uint64_t first = (offset + bytes - 1) / bytes * bytes;
  const uint64_t last = (offset + part.size()) / bytes * bytes;
  if (first >= last) return {};
  const uint64_t skipped = first - offset;
  offset = first;
  return part.subspan(skipped, last - first);
}

io::task<void> one_request(Image& image, Client& client) {
  const uint64_t sectors = client.model.size() / kSector;
  const uint64_t first = client.random() % sectors;
  const uint64_t count =
      std::min(client.random() % (client.random() % 8 == 0 ? 300 : 60) + 1, sectors - first);
  uint64_t offset = client.begin + first * kSector;
  const std::span<std::byte> part = std::span(client.model).subspan(first * kSector, count * kSector);
  switch (client.random() % 8) {
    case 0:
      std::ranges::fill(part, std::byte{0});
      co_await image.write_zeroes(offset, part.size(), {.may_unmap = client.random() % 2 == 0});
      break;
    case 1:
      co_await image.flush();
      break;
    case 2:
    case 3: {
      std::vector<std::byte> now(part.size());
      co_await image.read(offset, now);
      EXPECT_TRUE(std::ranges::equal(now, part)) << "at " << offset;
      break;
    }
    case 4: {
      const std::span<std::byte> clusters = whole_clusters(image, part, offset);
      if (clusters.empty()) break;
      std::ranges::fill(clusters, static_cast<std::byte>(client.random()));
      if (client.random() % 4 == 0)
        std::generate(clusters.begin(), clusters.end(),
                      [&] { return static_cast<std::byte>(client.random()); });
      co_await image.write(offset, clusters, {.compressed = true});
      break;
    }
    default:
      std::ranges::fill(part, static_cast<std::byte>(client.random()));
      co_await image.write(offset, part);
  }
}

io::task<void> work(Image& image, Client& client, int requests) {
  io::Reactor* const lane = io::Reactor::current();
  for (int i = 0; i < requests; ++i) {
    co_await one_request(image, client);
    EXPECT_EQ(io::Reactor::current(), lane);
  }
}

io::task<void> use_from_all_lanes(io::Lanes& lanes, storage::MemoryDevice& file, CreateOptions options) {
  const uint64_t seed = test_seed();
  co_await create_image(file, options, as_bytes("key"));
  auto image =
      co_await Image::open(block::make_checked(std::make_unique<Borrowed>(file)), {.l2_cache_bytes = 1});
  if (image->needs_secret()) co_await image->unlock(as_bytes("key"));
  std::vector<Client> clients;
  const uint64_t part = kSize / kClients + 3 * kSector;  // ends within clusters
  for (int i = 0; i < kClients; ++i) {
    const uint64_t begin = static_cast<uint64_t>(i) * part;
    clients.push_back({begin, std::vector<std::byte>(std::min(part, kSize - begin)),
                       std::mt19937_64(seed + static_cast<uint64_t>(i))});
  }
  io::TaskGroup group;
  for (int i = 0; i < kClients; ++i)
    group.spawn_on(lanes.lane(static_cast<unsigned>(i) % lanes.count()),
                   work(*image, clients[static_cast<size_t>(i)], rounds(600)));
  co_await group.join();
  for (const Client& client : clients) {
    std::vector<std::byte> now(client.model.size());
    co_await image->read(client.begin, now);
    EXPECT_TRUE(now == client.model) << "client at " << client.begin;
  }
  co_await image->close();
  const auto checked = co_await Image::open(std::make_unique<Borrowed>(file), {.for_check = true});
  const CheckResult result = co_await check(*checked, {});
  EXPECT_EQ(result.corruptions, 0u);
  EXPECT_EQ(result.leaks, 0u);
}

TEST(Qcow2Lanes, ManyClientsOnManyLanes) {
  for (const unsigned count : {1u, 2u, 4u}) {
    for (const CryptMethod method : {CryptMethod::kNone, CryptMethod::kAes}) {
      for (const bool extended : {false, true}) {
        SCOPED_TRACE(testing::Message()
                     << count << " lanes, method " << static_cast<int>(method) << ", extended " << extended);
        io::Lanes lanes(count);
        storage::MemoryDevice file(0, "image.qcow2");
        CreateOptions options;
        options.size_bytes = kSize;
        options.cluster_bits = extended ? 16 : 12;
        options.extended_l2 = extended;
        options.encryption = method;
        lanes.run(use_from_all_lanes(lanes, file, options));
      }
    }
  }
}

}  // namespace
}  // namespace cofre::qcow2
