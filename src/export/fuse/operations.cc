// What each request of the kernel does. Source: linux/fuse.h, and libfuse's fuse_lowlevel.h.
//
// There is one file, the root of the mount: nothing is looked up. What is not here libfuse answers itself.
#include <cerrno>

#include "base/error.h"
#include "export/fuse/session.h"

namespace cofre::fuse {
namespace {

// The kernel asks again each time: over another protocol the space that is allocated may change.
constexpr double kAttributesLastSeconds = 0;

// Asynchronous requests of the kernel (read-ahead, libaio, io_uring) that are in flight at a time.
constexpr unsigned kMostAsynchronous = kMostInFlight;

// ---- at once ----

// Answers with what `work` throws.
template <typename Work>
void answer(fuse_req_t request, Work work) noexcept {
  try {
    work(Session::of(request).file());
  } catch (...) {
    Session::answer_failure(request);
  }
}

void on_init(void* /*session*/, fuse_conn_info* connection) {
  connection->max_write = kMostTransferBytes;
  connection->max_read = kMostTransferBytes;
  connection->max_background = kMostAsynchronous;
  connection->congestion_threshold = kMostAsynchronous;
  // An open that makes the file shorter is refused where all such requests are.
  connection->want &= ~unsigned{FUSE_CAP_ATOMIC_O_TRUNC};
}

void on_getattr(fuse_req_t request, fuse_ino_t /*inode*/, fuse_file_info* /*opened*/) noexcept {
  answer(request, [request](ImageFile& file) {
    const struct stat attributes = file.attributes();
    fuse_reply_attr(request, &attributes, kAttributesLastSeconds);
  });
}

AttributeChange change_of(const struct stat& wanted, int to_set) {
  AttributeChange change;
  if ((to_set & FUSE_SET_ATTR_MODE) != 0) change.mode = wanted.st_mode;
  if ((to_set & FUSE_SET_ATTR_UID) != 0) change.uid = wanted.st_uid;
  if ((to_set & FUSE_SET_ATTR_GID) != 0) change.gid = wanted.st_gid;
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0) change.size_bytes = static_cast<uint64_t>(wanted.st_size);
  timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  if ((to_set & FUSE_SET_ATTR_ATIME) != 0) change.accessed = wanted.st_atim;
  if ((to_set & FUSE_SET_ATTR_ATIME_NOW) != 0) change.accessed = now;
  if ((to_set & FUSE_SET_ATTR_MTIME) != 0) change.modified = wanted.st_mtim;
  if ((to_set & FUSE_SET_ATTR_MTIME_NOW) != 0) change.modified = now;
  return change;
}

void on_setattr(fuse_req_t request, fuse_ino_t /*inode*/, struct stat* wanted, int to_set,
                fuse_file_info* /*opened*/) noexcept {
  answer(request, [request, wanted, to_set](ImageFile& file) {
    file.change_attributes(change_of(*wanted, to_set));
    const struct stat attributes = file.attributes();
    fuse_reply_attr(request, &attributes, kAttributesLastSeconds);
  });
}

// Nothing of the disk goes to the kernel's page cache: it would be there in plain, twice, and stale when
// others write over another protocol. Writes of several threads need not wait for each other; libfuse 3.14
// has no field for that flag, so the answer is made here.
void on_open(fuse_req_t request, fuse_ino_t /*inode*/, fuse_file_info* opened) noexcept {
  const bool writable = (opened->flags & O_ACCMODE) != O_RDONLY;
  if (writable && Session::of(request).file().settings().read_only) {
    fuse_reply_err(request, EROFS);
    return;
  }
  fuse_open_out answer = {};
  answer.fh = writable ? 1 : 0;
  answer.open_flags = FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES;
  fuse_reply_buf(request, reinterpret_cast<const char*>(&answer), sizeof answer);
}

// ---- coroutines ----

io::task<void> serve_read(Session& session, Session::Slot& slot, fuse_req_t request, uint64_t offset,
                          size_t length) {
  const Bytes into = slot.payload().first(std::min(length, slot.payload().size()));
  const size_t count = co_await session.file().read(offset, into);
  fuse_reply_buf(request, reinterpret_cast<const char*>(into.data()), count);
}

void on_read(fuse_req_t request, fuse_ino_t /*inode*/, size_t length, off_t offset,
             fuse_file_info* /*opened*/) noexcept {
  Session::begin(request, [=](Session& session, Session::Slot& slot) {
    return serve_read(session, slot, request, static_cast<uint64_t>(offset), length);
  });
}

io::task<void> serve_write(ImageFile& file, fuse_req_t request, uint64_t offset, ConstBytes source,
                           bool durable) {
  const size_t count = co_await file.write(offset, source, durable);
  fuse_reply_write(request, count);
}

// The bytes stay in the slot until the request is answered.
void on_write(fuse_req_t request, fuse_ino_t /*inode*/, const char* bytes, size_t length, off_t offset,
              fuse_file_info* opened) noexcept {
  const bool durable = (opened->flags & O_DSYNC) != 0;
  Session::begin(request, [=](Session& session, Session::Slot&) {
    return serve_write(session.file(), request, static_cast<uint64_t>(offset),
                       {reinterpret_cast<const std::byte*>(bytes), length}, durable);
  });
}

io::task<void> serve_flush(ImageFile& file, fuse_req_t request) {
  co_await file.flush();
  fuse_reply_err(request, 0);
}

// At each close(2).
void on_flush(fuse_req_t request, fuse_ino_t /*inode*/, fuse_file_info* opened) noexcept {
  if (opened->fh == 0) {  // it could not write
    fuse_reply_err(request, 0);
    return;
  }
  Session::begin(request,
                 [=](Session& session, Session::Slot&) { return serve_flush(session.file(), request); });
}

void on_fsync(fuse_req_t request, fuse_ino_t /*inode*/, int /*data_only*/,
              fuse_file_info* /*opened*/) noexcept {
  Session::begin(request,
                 [=](Session& session, Session::Slot&) { return serve_flush(session.file(), request); });
}

io::task<void> serve_fallocate(Session& session, fuse_req_t request, int mode, uint64_t offset,
                               uint64_t length) {
  co_await session.file().allocate(mode, offset, length,
                                   [&session, request] { return session.interrupted(request); });
  fuse_reply_err(request, 0);
}

void on_fallocate(fuse_req_t request, fuse_ino_t /*inode*/, int mode, off_t offset, off_t length,
                  fuse_file_info* /*opened*/) noexcept {
  Session::begin(request, [=](Session& session, Session::Slot&) {
    return serve_fallocate(session, request, mode, static_cast<uint64_t>(offset),
                           static_cast<uint64_t>(length));
  });
}

io::task<void> serve_lseek(Session& session, fuse_req_t request, uint64_t offset, int whence) {
  const uint64_t found = co_await session.file().seek(
      offset, whence, [&session, request] { return session.interrupted(request); });
  fuse_reply_lseek(request, static_cast<off_t>(found));
}

void on_lseek(fuse_req_t request, fuse_ino_t /*inode*/, off_t offset, int whence,
              fuse_file_info* /*opened*/) noexcept {
  Session::begin(request, [=](Session& session, Session::Slot&) {
    return serve_lseek(session, request, static_cast<uint64_t>(offset), whence);
  });
}

constexpr fuse_lowlevel_ops make_operations() {
  fuse_lowlevel_ops operations = {};
  operations.init = &on_init;
  operations.getattr = &on_getattr;
  operations.setattr = &on_setattr;
  operations.open = &on_open;
  operations.read = &on_read;
  operations.write = &on_write;
  operations.flush = &on_flush;
  operations.fsync = &on_fsync;
  operations.fallocate = &on_fallocate;
  operations.lseek = &on_lseek;
  return operations;
}

}  // namespace

const fuse_lowlevel_ops kOperations = make_operations();

}  // namespace cofre::fuse
