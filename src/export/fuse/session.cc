#include "export/fuse/session.h"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <new>
#include <utility>

#include "base/error.h"

namespace cofre::fuse {
namespace {

// A request is received so that the bytes of a write, after its two headers, begin on a page.
constexpr size_t kWriteHeaderBytes = sizeof(fuse_in_header) + sizeof(fuse_write_in);
constexpr size_t kReceiveOffset = kBufferAlignment - kWriteHeaderBytes;
constexpr size_t kReceiveBytes = kWriteHeaderBytes + kMostTransferBytes;
static_assert(kReceiveOffset % alignof(fuse_in_header) == 0);

// Taken in one turn of the lane, on which others live too: a disk that never waits would have no end of them.
constexpr unsigned kMostPerTurn = 32;

// ---- what libfuse has to say ----

thread_local std::string* complaints = nullptr;

// Else it complains of answers that nobody waited for.
void take_complaint(fuse_log_level /*level*/, const char* format, va_list values) {
  if (complaints == nullptr) return;
  std::array<char, 512> text;
  std::vsnprintf(text.data(), text.size(), format, values);
  *complaints += text.data();
}

// While it lives, what libfuse complains of on this thread is collected.
class Complaints {
 public:
  Complaints() {
    fuse_set_log_func(&take_complaint);
    complaints = &text_;
  }
  Complaints(const Complaints&) = delete;
  Complaints& operator=(const Complaints&) = delete;
  ~Complaints() { complaints = nullptr; }

  // In one line.
  std::string text() const {
    std::string line = text_;
    while (!line.empty() && line.back() == '\n') line.pop_back();
    std::ranges::replace(line, '\n', ' ');
    return line.empty() ? "the reason stands above" : line;
  }

 private:
  std::string text_;
};

// ---- how it reads and writes ----

ssize_t read_request(int fd, void* into, size_t /*length*/, void* /*session*/) {
  return ::read(fd, into, kReceiveBytes);
}

ssize_t write_answer(int fd, iovec* pieces, int count, void* /*session*/) {
  return ::writev(fd, pieces, count);
}

constexpr fuse_custom_io kTransport = {
    .writev = &write_answer, .read = &read_request, .splice_receive = nullptr, .splice_send = nullptr};

// The kernel checks modes and owners, so that no request comes from somebody who may not.
std::string mount_options(bool allow_other, bool read_only) {
  return fmt::format("fsname=cofre,subtype=cofre,default_permissions,max_read={}{}{}", kMostTransferBytes,
                     allow_other ? ",allow_other" : "", read_only ? ",ro" : "");
}

// Those that say what a program did wrong, or what it can do something about; all else is a fault of the
// disk. ENOSYS must not get out: the kernel would never ask again.
int errno_for_program(const Error& error) noexcept {
  switch (const int value = error.errno_value()) {
    case EDQUOT:
    case EFBIG:
    case EINTR:
    case EINVAL:
    case ENOMEM:
    case ENOSPC:
    case ENXIO:
    case EOPNOTSUPP:
    case EPERM:
    case EROFS:
      return value;
    default:
      return EIO;
  }
}

// Programs try out much that is answered with the others.
bool is_worth_a_line(int errno_value) noexcept {
  return errno_value != EINTR && errno_value != ENXIO && errno_value != EOPNOTSUPP && errno_value != EROFS;
}

}  // namespace

Session::Session(const std::string& path, bool allow_other, ImageFile& file)
    : file_(file), slots_(kMostInFlight) {
  for (Slot& slot : slots_) {
    slot.memory = AlignedBuffer(kBufferAlignment + kMostTransferBytes);
    slot.next_free = std::exchange(free_, &slot);
  }
  const std::string options = mount_options(allow_other, file.settings().read_only);
  std::array<const char*, 3> arguments = {"cofre", "-o", options.c_str()};
  fuse_args parsed = FUSE_ARGS_INIT(arguments.size(), const_cast<char**>(arguments.data()));
  const Complaints complained;
  session_.reset(fuse_session_new(&parsed, &kOperations, sizeof kOperations, this));
  fuse_opt_free_args(&parsed);
  if (!session_) fail(ErrorKind::kUnsupported, "libfuse does not take its options: {}", complained.text());
  if (fuse_session_mount(session_.get(), path.c_str()) != 0)
    fail(ErrorKind::kPermission,
         "cannot mount on '{}': {}. Mounting needs root, or fusermount3 (package fuse3) with its set-uid "
         "bit; in a "
         "container the right to mount (docker run --device /dev/fuse --cap-add SYS_ADMIN)",
         path, complained.text());
  const int fd = fuse_session_fd(session_.get());
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 ||
      fuse_session_custom_io(session_.get(), &kTransport, fd) != 0)
    fail(ErrorKind::kIo, "'{}': the connection to the kernel cannot be set up: {}", path, complained.text());
}

void Session::Unmount::operator()(fuse_session* session) const noexcept {
  fuse_session_unmount(session);
  fuse_session_destroy(session);
}

Session::~Session() {
  if (in_flight_ > 0) std::terminate();  // requests would write to a dead session
}

// ---- requests ----

// False: none was there, for the reason `error` gives, or 0 at the end.
bool Session::take_request(int& error) {
  Slot& slot = *std::exchange(free_, free_->next_free);
  ++in_flight_;
  fuse_buf buffer = {};
  buffer.mem = slot.memory.data() + kReceiveOffset;
  const int got = fuse_session_receive_buf(session_.get(), &buffer);
  if (got > 0) {
    receiving_ = &slot;
    fuse_session_process_buf(session_.get(), &buffer);
    if (std::exchange(receiving_, nullptr) != nullptr) release(slot);  // it was answered at once
  } else {
    release(slot);
  }
  error = got;
  return got > 0;
}

io::task<void> Session::serve(io::Cancel& cancel) {
  cancel_ = &cancel;
  unsigned taken = 0;
  while (!cancel.requested() && fuse_session_exited(session_.get()) == 0) {
    if (free_ == nullptr) {
      co_await room_.wait();
      taken = 0;
      continue;
    }
    int error = 0;
    if (take_request(error)) {
      if (++taken % kMostPerTurn == 0) co_await io::yield();
    } else if (error == -EAGAIN) {
      co_await io::async_readable(fuse_session_fd(session_.get()), &cancel);
      taken = 0;
    } else if (error != -EINTR) {
      if (error != 0) file_.log(fmt::format("cannot receive requests: {}", std::strerror(-error)));
      break;
    }
  }
  while (in_flight_ > 0) co_await room_.wait();
}

io::detail::Detached Session::carry_out(Session& session, Slot& slot, fuse_req_t request,
                                        io::task<void> work) {
  try {
    co_await std::move(work);
  } catch (...) {
    answer_failure(request);
  }
  session.release(slot);
}

void Session::answer_failure(fuse_req_t request) noexcept {
  int value = ENOMEM;
  try {
    throw;
  } catch (const Error& error) {
    value = errno_for_program(error);
    if (is_worth_a_line(value)) of(request).file_.log(error.what());
  } catch (const std::bad_alloc&) {
    of(request).file_.log("no memory for a request");
  }
  fuse_reply_err(request, value);
}

void Session::release(Slot& slot) noexcept {
  slot.next_free = std::exchange(free_, &slot);
  --in_flight_;
  room_.wake_one();
}

}  // namespace cofre::fuse
