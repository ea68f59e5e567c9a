// Clusters that lost their place in the mapping but may not be reused yet: until the tables that no longer
// name them are durable, and until every transfer that may still touch them is over.
//
// Transfers note the epoch they began in; ending one needs no lane. Home lane only: begin(), retire(),
// turn().
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <utility>
#include <vector>

namespace cofre::qcow2 {

class Retired {
 public:
  struct Run {
    uint64_t host_offset;
    uint64_t clusters;
    bool discard;  // give the space back to the host
  };

  // A transfer in flight; may end on any lane.
  class Transfer {
   public:
    Transfer() = default;
    Transfer(Transfer&& other) noexcept : users_(std::exchange(other.users_, nullptr)) {}
    Transfer& operator=(Transfer&& other) noexcept {
      end();
      users_ = std::exchange(other.users_, nullptr);
      return *this;
    }
    ~Transfer() { end(); }
    void end() noexcept {
      if (users_ != nullptr) users_->fetch_sub(1, std::memory_order_acq_rel);
      users_ = nullptr;
    }

   private:
    friend class Retired;
    explicit Transfer(std::atomic<int64_t>* users) noexcept : users_(users) {}
    std::atomic<int64_t>* users_ = nullptr;
  };

  Transfer begin() noexcept {
    users_[epoch_].fetch_add(1, std::memory_order_relaxed);
    return Transfer(&users_[epoch_]);
  }

  void retire(Run run) { fresh_.push_back(run); }
  bool empty() const noexcept { return fresh_.empty() && waiting_.empty(); }
  size_t size() const noexcept { return fresh_.size() + waiting_.size(); }

  // To be called when all tables are durable: gives the runs that nobody can touch any more.
  std::vector<Run> turn() {
    std::vector<Run> released;
    for (int twice = 0; twice < 2; ++twice) {
      if (users_[1 - epoch_].load(std::memory_order_acquire) != 0) break;
      released.insert(released.end(), waiting_.begin(), waiting_.end());
      waiting_ = std::exchange(fresh_, {});
      epoch_ = 1 - epoch_;
    }
    return released;
  }

 private:
  std::array<std::atomic<int64_t>, 2> users_ = {};
  unsigned epoch_ = 0;
  std::vector<Run> fresh_;    // retired in the present epoch
  std::vector<Run> waiting_;  // retired in the one before
};

}  // namespace cofre::qcow2
