#include "format/qcow2/compress.h"

#include <isa-l/igzip_lib.h>
#include <libdeflate.h>
#include <zlib.h>
#include <zstd.h>

#include <memory>
#include <new>

#include "base/aligned_buffer.h"

namespace cofre::qcow2 {
namespace {

constexpr uint16_t kDeflateWindowBits = 12;
// Of isa-l's levels 0 to 3, where more time begins to gain little: within a tenth of zlib's usual level in
// size, several times its speed.
constexpr uint32_t kDeflateLevel = 2;
constexpr uint32_t kDeflateLevelBytes = ISAL_DEF_LVL2_DEFAULT;
// Other writers keep distances within 4 KiB; taking any costs nothing.
constexpr int kRawInflateWindow = -15;
// A hostile frame must not ask for a window beyond what a cluster can need.
constexpr int kZstdWindowLogMax = kMaxClusterBits + 1;

template <typename T, void (*kFree)(T*)>
struct Freed {
  void operator()(T* coder) const noexcept { kFree(coder); }
};
void free_zstd(ZSTD_CCtx* coder) {
  ZSTD_freeCCtx(coder);
}
void free_zstd(ZSTD_DCtx* coder) {
  ZSTD_freeDCtx(coder);
}

template <typename Owner>
Owner made(Owner coder) {
  if (!coder) throw std::bad_alloc();
  return coder;
}

uint8_t* bytes_of(Bytes bytes) {
  return reinterpret_cast<uint8_t*>(bytes.data());
}
// The interfaces in C take input by a pointer to what they do not change.
uint8_t* bytes_of(ConstBytes bytes) {
  return reinterpret_cast<uint8_t*>(const_cast<std::byte*>(bytes.data()));
}

size_t deflate_cluster(ConstBytes cluster, Bytes stream) {
  struct Coder {
    isal_zstream z;
    AlignedBuffer level{kDeflateLevelBytes};
  };
  thread_local const std::unique_ptr<Coder> coder = std::make_unique<Coder>();
  isal_zstream& z = coder->z;
  isal_deflate_stateless_init(&z);
  z.level = kDeflateLevel;
  z.level_buf = bytes_of(coder->level.bytes());
  z.level_buf_size = kDeflateLevelBytes;
  z.hist_bits = kDeflateWindowBits;
  z.gzip_flag = IGZIP_DEFLATE;
  z.end_of_stream = 1;
  z.flush = NO_FLUSH;
  z.next_in = bytes_of(cluster);
  z.avail_in = static_cast<uint32_t>(cluster.size());
  z.next_out = bytes_of(stream);
  z.avail_out = static_cast<uint32_t>(stream.size());
  return isal_deflate_stateless(&z) == COMP_OK ? z.total_out : 0;
}

size_t zstd_compress_cluster(ConstBytes cluster, Bytes stream) {
  using Coder = std::unique_ptr<ZSTD_CCtx, Freed<ZSTD_CCtx, free_zstd>>;
  thread_local const Coder coder = made(Coder(ZSTD_createCCtx()));
  const size_t length = ZSTD_compressCCtx(coder.get(), stream.data(), stream.size(), cluster.data(),
                                          cluster.size(), ZSTD_CLEVEL_DEFAULT);
  return ZSTD_isError(length) ? 0 : length;
}

// Takes streams too that go on, or never end, behind the cluster's last byte, as other readers do.
bool inflate_patiently(ConstBytes stream, Bytes cluster) {
  z_stream z = {};
  if (inflateInit2(&z, kRawInflateWindow) != Z_OK) return false;
  z.next_in = bytes_of(stream);
  z.avail_in = static_cast<uInt>(stream.size());
  z.next_out = bytes_of(cluster);
  z.avail_out = static_cast<uInt>(cluster.size());
  const int result = inflate(&z, Z_FINISH);
  const bool full = z.avail_out == 0;
  inflateEnd(&z);
  return full && (result == Z_STREAM_END || result == Z_BUF_ERROR);
}

bool inflate_cluster(ConstBytes stream, Bytes cluster) {
  using Coder =
      std::unique_ptr<libdeflate_decompressor, Freed<libdeflate_decompressor, libdeflate_free_decompressor>>;
  thread_local const Coder coder = made(Coder(libdeflate_alloc_decompressor()));
  size_t taken = 0;
  size_t given = 0;
  const libdeflate_result result = libdeflate_deflate_decompress_ex(
      coder.get(), stream.data(), stream.size(), cluster.data(), cluster.size(), &taken, &given);
  if (result == LIBDEFLATE_SUCCESS) return given == cluster.size();
  return inflate_patiently(stream, cluster);
}

bool zstd_decompress_cluster(ConstBytes stream, Bytes cluster) {
  using Coder = std::unique_ptr<ZSTD_DCtx, Freed<ZSTD_DCtx, free_zstd>>;
  thread_local const Coder coder = made(Coder(ZSTD_createDCtx()));
  ZSTD_DCtx_reset(coder.get(), ZSTD_reset_session_and_parameters);
  ZSTD_DCtx_setParameter(coder.get(), ZSTD_d_windowLogMax, kZstdWindowLogMax);
  ZSTD_inBuffer in = {stream.data(), stream.size(), 0};
  ZSTD_outBuffer out = {cluster.data(), cluster.size(), 0};
  while (out.pos < out.size) {
    const size_t in_before = in.pos;
    const size_t out_before = out.pos;
    const size_t result = ZSTD_decompressStream(coder.get(), &out, &in);
    if (ZSTD_isError(result)) return false;
    if (in.pos == in_before && out.pos == out_before) return false;  // the stream ends early
  }
  return true;
}

}  // namespace

size_t compress(CompressionType type, ConstBytes cluster, Bytes stream) {
  return type == CompressionType::kZstd ? zstd_compress_cluster(cluster, stream)
                                        : deflate_cluster(cluster, stream);
}

bool decompress(CompressionType type, ConstBytes stream, Bytes cluster) {
  return type == CompressionType::kZstd ? zstd_decompress_cluster(stream, cluster)
                                        : inflate_cluster(stream, cluster);
}

}  // namespace cofre::qcow2
