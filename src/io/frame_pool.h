// Memory for coroutine frames: recycled per thread, so that a request costs no trip to the heap.
#pragma once

#include <cstddef>

namespace cofre::io {

// Frames may be freed on another thread than they came from. Throws std::bad_alloc.
void* allocate_frame(std::size_t size_bytes);
void free_frame(void* frame, std::size_t size_bytes) noexcept;

}  // namespace cofre::io
