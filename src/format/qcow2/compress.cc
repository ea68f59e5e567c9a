#include "format/qcow2/compress.h"

#include <zlib.h>
#include <zstd.h>

#include <memory>

namespace cofre::qcow2 {
namespace {

// Other writers keep distances within 4 KiB; taking any costs nothing.
constexpr int kRawDeflateWindow = -15;

bool inflate_cluster(ConstBytes stream, Bytes cluster) {
  z_stream z = {};
  if (inflateInit2(&z, kRawDeflateWindow) != Z_OK) return false;
  z.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(stream.data()));
  z.avail_in = static_cast<uInt>(stream.size());
  z.next_out = reinterpret_cast<Bytef*>(cluster.data());
  z.avail_out = static_cast<uInt>(cluster.size());
  const int result = inflate(&z, Z_FINISH);
  const bool full = z.avail_out == 0;
  inflateEnd(&z);
  return full && (result == Z_STREAM_END || result == Z_BUF_ERROR);
}

bool zstd_cluster(ConstBytes stream, Bytes cluster) {
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> context(ZSTD_createDCtx(), &ZSTD_freeDCtx);
  if (!context) return false;
  // A hostile frame must not ask for more memory than a window over the largest cluster takes.
  ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, kMaxClusterBits + 1);
  ZSTD_inBuffer in = {stream.data(), stream.size(), 0};
  ZSTD_outBuffer out = {cluster.data(), cluster.size(), 0};
  while (out.pos < out.size) {
    const size_t in_before = in.pos;
    const size_t out_before = out.pos;
    const size_t result = ZSTD_decompressStream(context.get(), &out, &in);
    if (ZSTD_isError(result)) return false;
    if (in.pos == in_before && out.pos == out_before) return false;  // the stream ends early
  }
  return true;
}

}  // namespace

bool decompress(CompressionType type, ConstBytes stream, Bytes cluster) {
  return type == CompressionType::kZstd ? zstd_cluster(stream, cluster) : inflate_cluster(stream, cluster);
}

}  // namespace cofre::qcow2
