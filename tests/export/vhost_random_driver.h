// A driver that sends requests at random over a vhost-user front end, and knows what each must give.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "base/units.h"
#include "export/vhost_front_end.h"

namespace cofre::vhost::testing {

struct Kind {
  const char* name;
  bool packed;
  bool event_index;
};
inline void PrintTo(const Kind& kind, std::ostream* out) {
  *out << kind.name;
}
inline constexpr Kind kKinds[] = {{"Split", false, false},
                                  {"SplitEventIndex", false, true},
                                  {"Packed", true, false},
                                  {"PackedEventIndex", true, true}};
inline std::string kind_name(const ::testing::TestParamInfo<Kind>& info) {
  return info.param.name;
}

inline constexpr uint32_t kSlotBytes = 32 * kKiB;  // of the disk: at most one request at a time touches it

struct Flight {
  BlockRequest request;
  uint64_t slot;
  RequestType type = RequestType::kIn;
  uint64_t offset = 0;
  uint32_t bytes = 0;
};

class RandomDriver {
 public:
  RandomDriver(TestMemory& memory, Kind kind, uint64_t first_slot, uint64_t seed)
      : queue(memory, 64, {kind.packed, kind.event_index}), random_(seed) {
    for (uint64_t i = 0; i < 12; ++i)
      flights_.push_back({.request = BlockRequest(memory, kSlotBytes, i % 2 == 1), .slot = first_slot + i});
    model_.assign(flights_.size() * kSlotBytes, std::byte{0});
    for (Flight& flight : flights_) idle_.push_back(&flight);
  }

  // Gives the device some more; what it has done is checked. False: all is done.
  void step(bool more) {
    bool any = false;
    while (more && !idle_.empty() && random_() % 4 != 0 && submit(*idle_.back())) {
      idle_.pop_back();
      any = true;
    }
    if (any && queue.publish()) queue.kick();
    while (const auto used = queue.take_used()) check(*used);
  }
  bool idle() const { return in_flight_.empty(); }
  uint64_t done() const { return done_; }

  DriverQueue queue;

 private:
  std::span<std::byte> model(const Flight& flight) {
    return std::span(model_).subspan(
        static_cast<size_t>(&flight - flights_.data()) * kSlotBytes + flight.offset, flight.bytes);
  }

  bool submit(Flight& flight) {
    constexpr RequestType kTypes[] = {RequestType::kIn, RequestType::kOut, RequestType::kWriteZeroes,
                                      RequestType::kFlush};
    flight.type = kTypes[random_() % 10 < 8 ? random_() % 2 : 2 + random_() % 2];
    flight.offset = random_() % (kSlotBytes / 512) * 512;
    flight.bytes = static_cast<uint32_t>((1 + random_() % ((kSlotBytes - flight.offset) / 512)) * 512);
    uint64_t sector = (flight.slot * kSlotBytes + flight.offset) / 512;
    uint32_t length = flight.bytes;
    if (flight.type == RequestType::kOut) {
      for (uint32_t i = 0; i < length; ++i) flight.request.data()[i] = static_cast<std::byte>(random_());
    } else if (flight.type == RequestType::kWriteZeroes) {
      store_le(flight.request.data(), sector);
      store_le(flight.request.data() + 8, flight.bytes / 512);
      store_le(flight.request.data() + 12, static_cast<uint32_t>(random_() % 2));
      sector = 0;
      length = 16;
    } else if (flight.type == RequestType::kFlush) {
      length = 0;
    }
    const auto buffers = flight.request.make(flight.type, sector, length, 1 + random_() % 6);
    const auto id = queue.add(buffers, random_() % 2 == 0);
    if (!id) return false;
    if (flight.type == RequestType::kOut) std::copy_n(flight.request.data(), length, model(flight).begin());
    if (flight.type == RequestType::kWriteZeroes) std::ranges::fill(model(flight), std::byte{0});
    in_flight_[*id] = &flight;
    return true;
  }

  void check(UsedBuffer used) {
    const auto found = in_flight_.find(used.id);
    ASSERT_NE(found, in_flight_.end()) << "request " << used.id << " is done twice";
    Flight& flight = *found->second;
    in_flight_.erase(found);
    EXPECT_EQ(flight.request.status(), RequestStatus::kOk);
    if (flight.type == RequestType::kIn) {
      EXPECT_EQ(used.length, flight.bytes + 1);
      EXPECT_TRUE(std::ranges::equal(model(flight), std::span(flight.request.data(), flight.bytes)));
    }
    ++done_;
    idle_.push_back(&flight);
  }

  std::mt19937_64 random_;
  std::vector<Flight> flights_;
  std::vector<std::byte> model_;
  std::vector<Flight*> idle_;
  std::map<uint16_t, Flight*> in_flight_;
  uint64_t done_ = 0;
};

}  // namespace cofre::vhost::testing
