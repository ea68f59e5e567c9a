// What a job that salvages (convert --salvage) tells of the bytes that it could not read.
#pragma once

#include <cstdint>
#include <functional>

#include "base/error.h"

namespace cofre::job {

struct Unreadable {
  uint64_t offset = 0;  // of the sources, joined
  bool is_map = false;  // where the bytes lie is what cannot be read; they may be readable all the same
  const Error& error;
};

// Called on any lane, by several at once. What it throws ends the job.
using TellUnreadable = std::function<void(const Unreadable&)>;

}  // namespace cofre::job
