// Of a write, a disk that loses power may keep some sectors and not others. A header longer than a sector is
// therefore replaced in steps, each of which changes one sector that counts:
//
//   the new backing file's name, in a part of the cluster that nothing refers to
//   sector 0: a header that names it there and whose extensions all lie in this sector
//   the other sectors, which nothing refers to now
//   sector 0: the whole new header
//
// The header in between lacks the feature-name table, which only serves messages. Where the cluster has no
// room for it (names of hundreds of bytes in clusters of a kilobyte or two), one write has to do.
#include "format/qcow2/header_update.h"

#include <algorithm>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/error.h"
#include "format/qcow2/at_home.h"

namespace cofre::qcow2 {
namespace {

// The header cluster before and after a rewrite, and the writes that lead from one to the other.
class Rewrite {
 public:
  Rewrite(block::Device& file, const Header& header, AlignedBuffer old_cluster, AlignedBuffer new_cluster)
      : file_(file), header_(header), old_(std::move(old_cluster)), new_(std::move(new_cluster)) {}

  io::task<void> run() {
    const std::vector<std::byte> between =
        changed_sectors() > 1 ? header_between() : std::vector<std::byte>();
    if (between.empty()) {
      co_await put(0, new_.bytes().first(end_of_change()));
      co_return;
    }
    if (between.size() > kSectorBytes) co_await put(name_at(), ConstBytes(between).subspan(name_at()));
    co_await put(0, ConstBytes(between).first(kSectorBytes));
    co_await put(kSectorBytes, new_.bytes().first(end_of_change()).subspan(kSectorBytes));
    co_await put(0, sector_of(new_, 0));
    if (between.size() > kSectorBytes) co_await file_.write_zeroes(name_at(), between.size() - name_at());
  }

 private:
  static ConstBytes sector_of(const AlignedBuffer& cluster, uint64_t at) {
    return cluster.bytes().subspan(at, kSectorBytes);
  }
  bool differs(uint64_t at) const { return !std::ranges::equal(sector_of(old_, at), sector_of(new_, at)); }
  uint64_t changed_sectors() const {
    uint64_t count = 0;
    for (uint64_t at = 0; at < new_.size(); at += kSectorBytes) count += differs(at) ? 1 : 0;
    return count;
  }
  uint64_t end_of_change() const {
    uint64_t end = new_.size();
    while (end > kSectorBytes && !differs(end - kSectorBytes)) end -= kSectorBytes;
    return end;
  }
  // Behind all that the old header and the new one use; the mark that ends a list of extensions is zeros, and
  // may be alone in its sector.
  uint64_t name_at() const {
    uint64_t used = new_.size();
    while (used > kSectorBytes && is_zero(sector_of(old_, used - kSectorBytes)) &&
           is_zero(sector_of(new_, used - kSectorBytes)))
      used -= kSectorBytes;
    return used + kSectorBytes;
  }
  // Empty: it does not fit.
  std::vector<std::byte> header_between() const {
    Header between = header_;
    between.feature_names.clear();
    std::vector<std::byte> bytes;
    try {
      bytes = encode_header(between, name_at());
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kLimit) throw;
    }
    return bytes;
  }
  io::task<void> put(uint64_t offset, ConstBytes bytes) {
    co_await file_.write(offset, bytes);
    co_await file_.flush();
  }

  block::Device& file_;
  const Header& header_;
  const AlignedBuffer old_;
  const AlignedBuffer new_;
};

void require_writable_header(const State& state) {
  if (state.options.read_only) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", state.name);
  state.require_usable();
}

io::task<void> change_backing_at_home(State& state, std::optional<std::string> name,
                                      std::optional<std::string> format) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  require_writable_header(state);
  Header changed = state.header;
  if (name && name->empty()) name.reset();
  if (!name || (format && format->empty())) format.reset();
  changed.backing_file = std::move(name);
  changed.backing_format = std::move(format);
  co_await state.write_back(/*durable=*/true);  // clusters that hid the old backing file, or will the new one
  co_await update_header(state, std::move(changed));
}

}  // namespace

io::task<void> update_header(State& state, Header changed) {
  require_writable_header(state);
  changed.autoclear_features &= kKnownAutoclear;
  if (changed.backing_file && changed.external_data() && changed.raw_external_data())
    fail(ErrorKind::kInvalidArgument,
         "'{}': its raw data file holds the whole disk, which excludes a backing file", state.name);
  const std::vector<std::byte> encoded = encode_header_with_room(changed);
  AlignedBuffer old_cluster(state.cluster_bytes());
  AlignedBuffer new_cluster(state.cluster_bytes());
  co_await state.file->read(0, old_cluster.bytes());
  std::ranges::fill(new_cluster.bytes(), std::byte{0});
  std::ranges::copy(encoded, new_cluster.bytes().begin());
  Rewrite rewrite(*state.file, changed, std::move(old_cluster), std::move(new_cluster));
  co_await rewrite.run();
  state.header = std::move(changed);
}

io::task<void> Image::change_backing(std::optional<std::string> name, std::optional<std::string> format) {
  co_await at_home(*state_, change_backing_at_home(*state_, std::move(name), std::move(format)));
}

}  // namespace cofre::qcow2
