// How often this program goes to the heap. For one source file of a test program: it replaces the program's
// operators new and delete, so that every allocation passes here. Not with sanitizers, which bring their own.
#pragma once

#include <malloc.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace cofre {

inline std::atomic<uint64_t> trips_to_the_heap = 0;
// A thread that is not what is measured says false.
inline thread_local bool counts_trips = true;

inline void count_trip() noexcept {
  if (counts_trips) trips_to_the_heap.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace cofre

void* operator new(std::size_t size) {
  cofre::count_trip();
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
extern "C" void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept {
  cofre::count_trip();
  return memalign(alignment, size);
}
