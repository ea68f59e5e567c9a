#include "io/frame_pool.h"

#include <array>
#include <new>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define COFRE_PLAIN_FRAMES 1  // let the sanitizer see every frame's life
#endif
#endif

namespace cofre::io {

#ifdef COFRE_PLAIN_FRAMES

void* allocate_frame(std::size_t size_bytes) {
  return ::operator new(size_bytes);
}
void free_frame(void* frame, std::size_t) noexcept {
  ::operator delete(frame);
}

#else

namespace {

constexpr std::size_t kClassBytes = 128;
constexpr std::size_t kClasses = 32;  // frames up to 4 KiB are kept
constexpr unsigned kKeptPerClass = 64;

struct FreeFrame {
  FreeFrame* next;
};

// Trivially destructible, so that frames may still be freed while a thread, or the program, ends.
struct FrameLists {
  std::array<FreeFrame*, kClasses> head;
  std::array<unsigned, kClasses> count;
  bool closed;
};
constinit thread_local FrameLists lists{};

struct CloseAtThreadEnd {
  CloseAtThreadEnd() noexcept = default;
  CloseAtThreadEnd(const CloseAtThreadEnd&) = delete;
  CloseAtThreadEnd& operator=(const CloseAtThreadEnd&) = delete;
  ~CloseAtThreadEnd() {
    lists.closed = true;
    for (FreeFrame*& head : lists.head) {
      while (FreeFrame* frame = head) {
        head = frame->next;
        ::operator delete(frame);
      }
    }
  }
  void touch() const noexcept {}
};
thread_local CloseAtThreadEnd close_at_thread_end;

std::size_t class_of(std::size_t size_bytes) {
  return (size_bytes - 1) / kClassBytes;
}

}  // namespace

void* allocate_frame(std::size_t size_bytes) {
  const std::size_t size_class = class_of(size_bytes);
  if (size_class >= kClasses) return ::operator new(size_bytes);
  if (FreeFrame* frame = lists.head[size_class]) {
    lists.head[size_class] = frame->next;
    --lists.count[size_class];
    return frame;
  }
  return ::operator new((size_class + 1) * kClassBytes);
}

void free_frame(void* frame, std::size_t size_bytes) noexcept {
  const std::size_t size_class = class_of(size_bytes);
  if (size_class >= kClasses || lists.closed || lists.count[size_class] >= kKeptPerClass) {
    ::operator delete(frame);
    return;
  }
  close_at_thread_end.touch();
  lists.head[size_class] = new (frame) FreeFrame{lists.head[size_class]};
  ++lists.count[size_class];
}

#endif

}  // namespace cofre::io
