// An image as it is offered to clients, whatever the protocol.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "block/device.h"
#include "export/activity.h"

namespace cofre::exporting {

// A run of bytes that have one status, at least one byte and at most what was asked for.
struct StatusRun {
  uint64_t length_bytes = 0;
  uint64_t status = 0;
};

// One thing that can be known of every byte: NBD's metadata contexts. Any lane.
class StatusSource {
 public:
  StatusSource() = default;
  StatusSource(const StatusSource&) = delete;
  StatusSource& operator=(const StatusSource&) = delete;
  virtual ~StatusSource() = default;

  // As clients ask for it: "base:allocation".
  virtual const std::string& name() const = 0;
  virtual io::task<StatusRun> status(uint64_t offset, uint64_t length) = 0;
};

struct Export {
  std::string name;
  std::string description;
  // Takes requests of any alignment; outlives this. Its length does not change while it is exported.
  block::Device* device = nullptr;
  // What clients are told of; others are served too. A power of two.
  uint32_t minimum_block_bytes = 1;
  uint32_t preferred_block_bytes = 4096;
  unsigned lane = 0;  // of io::Lanes: where its metadata is at home, so that requests from there cost least
  bool read_only = false;
  bool encrypted = false;  // the image, or one below it
  bool multi_conn = true;  // several connections of one client are welcome
  std::vector<std::shared_ptr<StatusSource>> statuses;
  std::shared_ptr<Activity> activity = nullptr;  // null: nobody counts
};

// The exports of a process by name. Any lane.
class ExportTable {
 public:
  // Throws Error kExists.
  void add(std::shared_ptr<const Export> added);
  // Nobody finds it any more; who has it keeps it. Nothing where there is none.
  void remove(const std::string& name);
  // Null when there is none.
  std::shared_ptr<const Export> find(const std::string& name) const;
  std::vector<std::shared_ptr<const Export>> all() const;

 private:
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<const Export>> exports_;  // in the order they were added
};

}  // namespace cofre::exporting
