// One mount, and the requests that come through it: libfuse decodes and answers, this receives, and keeps
// what is in flight.
//
// Belongs to the lane that serve() runs on. Each request is a coroutine. A slot has the memory for one: the
// bytes of a write are received to where they are aligned, those of a read are answered from there.
#pragma once

#include <linux/fuse.h>

#include <memory>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/units.h"
#include "export/fuse/image_file.h"
#include "export/fuse/libfuse.h"
#include "io/poll.h"

namespace cofre::fuse {

// What /proc/self/mounts says.
inline constexpr const char* kMountType = "fuse.cofre";

inline constexpr uint32_t kMostTransferBytes = kMiB;  // of a read or write; the kernel has no longer ones
inline constexpr unsigned kMostInFlight = 64;

class Session {
 public:
  struct Slot {
    AlignedBuffer memory;
    Slot* next_free = nullptr;
    Bytes payload() noexcept { return memory.bytes().subspan(kBufferAlignment); }
  };

  // Mounts on `path`, an absolute path. Throws Error. The file outlives it.
  Session(const std::string& path, bool allow_other, ImageFile& file);
  // Unmounts, also from under those who have the file open; nothing may be in flight. Blocks for moments.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Takes requests until it is unmounted from outside, or `cancel` is requested; what was begun is done then.
  io::task<void> serve(io::Cancel& cancel);

  ImageFile& file() noexcept { return file_; }
  static Session& of(fuse_req_t request) noexcept {
    return *static_cast<Session*>(fuse_req_userdata(request));
  }

  // For libfuse's callbacks: carries out the task that `make(session, slot)` gives, which answers `request`
  // as its last deed, or throws: then it is answered with the error.
  template <typename Make>
  static void begin(fuse_req_t request, Make make) noexcept {
    Session& session = of(request);
    Slot& slot = *std::exchange(session.receiving_, nullptr);
    try {
      carry_out(session, slot, request, make(session, slot));
    } catch (const std::bad_alloc&) {  // no memory for its frame
      fuse_reply_err(request, ENOMEM);
      session.release(slot);
    }
  }
  // Whether a request that lasts should end early: the program does not wait any more, or we are to end.
  bool interrupted(fuse_req_t request) const noexcept {
    return cancel_->requested() || fuse_req_interrupted(request) != 0;
  }
  // Answers with the exception that is being handled.
  static void answer_failure(fuse_req_t request) noexcept;

 private:
  struct Unmount {
    void operator()(fuse_session* session) const noexcept;
  };
  static io::detail::Detached carry_out(Session& session, Slot& slot, fuse_req_t request,
                                        io::task<void> work);
  bool take_request(int& error);
  void release(Slot& slot) noexcept;

  ImageFile& file_;
  std::vector<Slot> slots_;
  Slot* free_ = nullptr;
  Slot* receiving_ = nullptr;  // has the request that libfuse decodes now, until somebody takes it
  unsigned in_flight_ = 0;
  const io::Cancel* cancel_ = nullptr;  // while it serves
  io::WaitQueue room_;
  std::unique_ptr<fuse_session, Unmount> session_;
};

// What the requests do.
extern const fuse_lowlevel_ops kOperations;

}  // namespace cofre::fuse
