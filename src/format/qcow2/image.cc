#include "format/qcow2/image.h"

#include <algorithm>
#include <array>

#include "base/checked.h"
#include "base/error.h"
#include "crypto/secret.h"
#include "format/qcow2/at_home.h"
#include "format/qcow2/compressed_write.h"
#include "format/qcow2/state.h"

namespace cofre::qcow2 {
namespace {

uint64_t l2_cache_bytes(const Header& header, const OpenOptions& options) {
  if (options.l2_cache_bytes != 0) return options.l2_cache_bytes;
  const uint64_t whole_image = div_ceil(header.size_bytes, header.cluster_bytes()) * header.l2_entry_bytes();
  return std::clamp<uint64_t>(whole_image, kMiB, kDefaultL2CacheCap);
}

uint64_t refcount_cache_bytes(const Header& header, const OpenOptions& options) {
  if (options.refcount_cache_bytes != 0) return options.refcount_cache_bytes;
  return std::max<uint64_t>(l2_cache_bytes(header, options) / 4, 256 * kKiB);
}

// The first cluster, as far as the file has it.
// No more than the header's cluster: what lies behind need not be readable for an image to be saved from a
// failing disk.
io::task<Header> read_header(block::Device& file) {
  const uint64_t length = file.length_bytes();
  AlignedBuffer start(std::min<uint64_t>(length, kSectorBytes));
  co_await file.read(0, start.bytes());
  const uint32_t cluster_bits =
      has_magic(start.bytes()) && start.size() == kSectorBytes ? load_be<uint32_t>(start.data() + 20) : 0;
  if (cluster_bits > kMinClusterBits && cluster_bits <= kMaxClusterBits) {
    start = AlignedBuffer(std::min(length, uint64_t{1} << cluster_bits));
    co_await file.read(0, start.bytes());
  }
  co_return decode_header(start.bytes(), length, file.name());
}

// A change of the guest's bytes [offset, offset + length) (of none: of the image): prepared, noted in the
// bitmaps, however it ends, and its findings of damage recorded.
io::task<void> changing(State& state, uint64_t offset, uint64_t length, io::task<void> work) {
  bool damaged = false;
  std::exception_ptr failure;
  try {
    co_await state.prepare_to_change();
    state.bitmaps.note(offset, offset + length);
    co_await std::move(work);
  } catch (const Error& error) {
    damaged = error.kind() == ErrorKind::kCorrupt;
    failure = std::current_exception();
  }
  if (failure) {
    co_await io::enter(state.home);
    if (damaged) co_await state.set_corrupt_bit();
    std::rethrow_exception(failure);
  }
}

}  // namespace

State::State(std::unique_ptr<block::Device> file_in, Header header_in, const OpenOptions& options_in)
    : file(std::move(file_in)),
      header(std::move(header_in)),
      options(options_in),
      name(file->name()),
      home(*io::Reactor::current()),
      length_bytes(align_down<uint64_t>(header.size_bytes, kSectorBytes)),
      bytes_per_l2_table(header.l2_entries_per_table() << header.cluster_bits),
      metadata_map(header.cluster_bits),
      l2_cache(*file, slice_bytes_for(header.cluster_bytes()), l2_cache_bytes(header, options),
               block::Event::kL2Load, block::Event::kL2Update),
      refcounts(*file, header, metadata_map, refcount_cache_bytes(header, options)) {
  limits.request_alignment = kSectorBytes;
  limits.memory_alignment = file->limits().memory_alignment;
  limits.discard_alignment = static_cast<uint32_t>(cluster_bytes());
  limits.zero_alignment = static_cast<uint32_t>(header.subcluster_bytes());
  limits.preferred_bytes = std::max<uint64_t>(cluster_bytes(), 64 * kKiB);
  // Compressed clusters are never encrypted, and never lie in a data file.
  if (header.crypt_method == CryptMethod::kNone && !header.external_data())
    limits.compressed_unit_bytes = static_cast<uint32_t>(cluster_bytes());
  limits.read_only = options.read_only;
}

void State::note_metadata() {
  metadata_map.add(0, header.cluster_bytes());
  metadata_map.add(header.l1_table_offset, uint64_t{header.l1_entries} * 8);
  metadata_map.add(header.snapshots_offset, snapshot_table_bytes);
  for (const uint64_t entry : l1.values())
    if ((entry & kOffsetMask) != 0 && (entry & kOffsetMask) < file->length_bytes())
      metadata_map.add(entry & kOffsetMask);
  if (header.crypt_header) metadata_map.add(header.crypt_header->offset, header.crypt_header->length_bytes);
  for (const SnapshotEntry& snapshot : snapshots)
    if (range_within(snapshot.l1_table_offset, uint64_t{snapshot.l1_entries} * 8, file->length_bytes()))
      metadata_map.add(snapshot.l1_table_offset, uint64_t{snapshot.l1_entries} * 8);
}

Image::Image(std::unique_ptr<State> state) : state_(std::move(state)) {}
Image::~Image() = default;

io::task<std::unique_ptr<Image>> Image::open(std::unique_ptr<block::Device> file,
                                             const OpenOptions& options) {
  Header header = co_await read_header(*file);
  auto state = std::make_unique<State>(std::move(file), std::move(header), options);
  const bool to_be_written = !options.read_only && !options.for_check;
  if (to_be_written && (state->header.incompatible_features & kCorrupt) != 0)
    fail(ErrorKind::kCorrupt,
         "'{}' is marked corrupt and can only be read: repair it with check -r all before writing to it",
         state->name);
  co_await state->l1.read(*state->file, state->header.l1_table_offset, state->header.l1_entries);
  // A dirty image's refcounts are rebuilt below, whatever state they are in.
  const bool dirty = (state->header.incompatible_features & kDirty) != 0;
  co_await state->refcounts.load_table(/*tolerant=*/!to_be_written || dirty);
  state->snapshots = co_await read_snapshots(*state->file, state->header, &state->snapshot_table_bytes);
  state->note_metadata();
  co_await state->bitmaps.read_directory();
  std::unique_ptr<Image> image(new Image(std::move(state)));
  if (to_be_written && image->is_dirty()) co_await repair_dirty(*image);
  co_return image;
}

const Header& Image::header() const noexcept {
  return state_->header;
}
const std::vector<SnapshotEntry>& Image::snapshots() const noexcept {
  return state_->snapshots;
}
block::Device& Image::file() const noexcept {
  return *state_->file;
}
block::Device* Image::data_file() const noexcept {
  return state_->external_data.get();
}
bool Image::is_dirty() const noexcept {
  return (state_->header.incompatible_features & kDirty) != 0;
}
bool Image::is_corrupt() const noexcept {
  return (state_->header.incompatible_features & kCorrupt) != 0;
}

void Image::set_backing(std::unique_ptr<block::Device> backing) {
  state_->backing = std::move(backing);
}

void Image::set_data_file(std::unique_ptr<block::Device> data_file) {
  state_->external_data = std::move(data_file);
  state_->limits.memory_alignment =
      std::max(state_->limits.memory_alignment, state_->external_data->limits().memory_alignment);
}

bool Image::needs_secret() const noexcept {
  return state_->header.crypt_method != CryptMethod::kNone && !state_->cipher;
}

std::string_view Image::cipher_implementation() const noexcept {
  return state_->cipher.implementation();
}

io::task<luks::Luks1Header> Image::luks_header() {
  const CryptHeaderPlace place = state_->header.crypt_header.value();
  co_return co_await luks::luks1_read_header(*state_->file, place.offset, place.length_bytes);
}

io::task<void> Image::unlock(ConstBytes passphrase) {
  State& state = *state_;
  if (state.header.crypt_method == CryptMethod::kAes) {
    // The passphrase's first 16 bytes are the key, as they are: that is all the protection this old method
    // has.
    crypto::SecretBytes key(16);
    std::ranges::fill(key.bytes(), std::byte{0});
    std::ranges::copy(passphrase.first(std::min<size_t>(passphrase.size(), 16)), key.bytes().begin());
    const crypto::CipherSpec spec{.algorithm = crypto::CipherAlgorithm::aes128,
                                  .mode = crypto::CipherMode::cbc,
                                  .iv = crypto::IvGenerator::plain64};
    state.cipher = GuestCipher(CryptMethod::kAes, crypto::SectorCipher::create(spec, key.bytes()));
  } else if (state.header.crypt_method == CryptMethod::kLuks) {
    unlock(co_await luks_volume(passphrase));
  }
}

io::task<luks::Luks1Volume> Image::luks_volume(ConstBytes passphrase) {
  const CryptHeaderPlace place = state_->header.crypt_header.value();
  co_return co_await luks::luks1_unlock(*state_->file, place.offset, place.length_bytes, passphrase);
}

void Image::unlock(const luks::Luks1Volume& volume) {
  state_->cipher = GuestCipher(CryptMethod::kLuks, volume.make_cipher());
}

const std::string& Image::name() const {
  return state_->name;
}
const block::Limits& Image::limits() const {
  return state_->limits;
}
uint64_t Image::length_bytes() const {
  return state_->length_bytes;
}
block::Device* Image::backing() const {
  return state_->backing.get();
}

std::optional<uint64_t> Image::allocated_bytes() const {
  const std::optional<uint64_t> in_file = state_->file->allocated_bytes();
  if (!state_->external_data || !in_file) return in_file;
  const std::optional<uint64_t> in_data = state_->external_data->allocated_bytes();
  return in_data ? std::optional(*in_file + *in_data) : std::nullopt;
}

void State::require_writable() const {
  if (options.read_only) fail(ErrorKind::kReadOnly, "'{}' was opened read-only", name);
  if (damaged.load(std::memory_order_acquire))
    fail(ErrorKind::kCorrupt, "'{}' was found to be damaged and takes no more writes: run check -r all on it",
         name);
}

void State::require_content() const {
  if (header.crypt_method != CryptMethod::kNone && !cipher)
    fail(ErrorKind::kMissingSecret, "'{}' is encrypted: its passphrase is needed to read or write it", name);
  if (header.external_data() && !external_data)
    fail(ErrorKind::kNotFound, "'{}' keeps its data in an external file, which is not open", name);
}

void State::require_access(bool to_write, uint64_t offset, uint64_t length) const {
  if (to_write) require_writable();
  require_content();
  if (!range_within(offset, length, length_bytes))
    fail(ErrorKind::kInvalidArgument, "'{}': {} bytes at offset {} are past the disk's end at {}", name,
         length, offset, length_bytes);
}

io::task<void> Image::read(uint64_t offset, Bytes destination) {
  state_->require_access(/*to_write=*/false, offset, destination.size());
  io::Reactor& lane = *io::Reactor::current();
  co_await at_home(*state_, state_->read_range(lane, offset, destination));
}

namespace {

void require_compressible(const State& state, uint64_t offset, uint64_t length) {
  if (state.header.crypt_method != CryptMethod::kNone)
    fail(ErrorKind::kUnsupported, "'{}' is encrypted, and compressed clusters would be stored in plain text",
         state.name);
  if (state.header.external_data())
    fail(ErrorKind::kUnsupported,
         "'{}' keeps its data in an external file, which cannot hold compressed clusters", state.name);
  const uint64_t unit = state.cluster_bytes();
  if (!is_aligned(offset, unit) || (!is_aligned(length, unit) && offset + length != state.length_bytes))
    fail(ErrorKind::kInvalidArgument,
         "'{}': compressed writes consist of whole clusters of {} bytes: {} bytes at offset {} do not",
         state.name, unit, length, offset);
}

io::task<void> write_compressed(State& state, uint64_t offset, ConstBytes source, bool no_overwrite) {
  require_compressible(state, offset, source.size());
  io::Reactor& lane = *io::Reactor::current();
  while (!source.empty()) {
    const ConstBytes part = source.first(std::min(source.size(), CompressedWrite::longest(state)));
    CompressedWrite write(state, lane, offset, part, no_overwrite);
    write.compress();
    co_await at_home(state, changing(state, offset, part.size(), write.store()));
    offset += part.size();
    source = source.subspan(part.size());
  }
}

}  // namespace

namespace {

// The VM state is written and read as the disk is, behind its end.
io::task<void> save_at_home(State& state, io::Reactor& lane, uint64_t offset, ConstBytes source) {
  const auto end = checked_add(offset, state.vm_state_start() + source.size());
  if (!end)
    fail(ErrorKind::kLimit, "'{}': VM state cannot lie at offset {}, it is too large", state.name, offset);
  const uint64_t entries = state.l1_entries_for(*end);
  {
    const io::Mutex::Guard guard = co_await state.metadata.lock();
    state.require_usable();
    if (entries > state.l1.size()) co_await state.grow_l1(entries);
  }
  co_await state.write_range(lane, state.vm_state_start() + offset, source);
}

io::task<void> load_at_home(State& state, io::Reactor& lane, uint64_t offset, Bytes destination) {
  const uint64_t start = state.vm_state_start();
  const uint64_t mapped = std::max(start, state.l1.size() * state.bytes_per_l2_table) - start;
  const uint64_t there = offset < mapped ? std::min<uint64_t>(destination.size(), mapped - offset) : 0;
  std::ranges::fill(destination.subspan(there), std::byte{0});
  co_await state.read_range(lane, start + offset, destination.first(there));
}

}  // namespace

io::task<void> Image::write(uint64_t offset, ConstBytes source, block::WriteFlags flags) {
  state_->require_access(/*to_write=*/true, offset, source.size());
  if (flags.compressed) {
    co_await write_compressed(*state_, offset, source, flags.no_overwrite);
  } else {
    io::Reactor& lane = *io::Reactor::current();
    co_await at_home(*state_,
                     changing(*state_, offset, source.size(), state_->write_range(lane, offset, source)));
  }
  if (flags.fua) co_await flush();
}

io::task<void> Image::save_vmstate(uint64_t offset, ConstBytes source) {
  state_->require_writable();
  state_->require_content();
  io::Reactor& lane = *io::Reactor::current();
  co_await at_home(*state_, changing(*state_, 0, 0, save_at_home(*state_, lane, offset, source)));
}

io::task<void> Image::load_vmstate(uint64_t offset, Bytes destination) {
  state_->require_content();
  io::Reactor& lane = *io::Reactor::current();
  co_await at_home(*state_, load_at_home(*state_, lane, offset, destination));
}

io::task<void> Image::write_zeroes(uint64_t offset, uint64_t length, block::WriteFlags flags) {
  state_->require_access(/*to_write=*/true, offset, length);
  if (length == 0) co_return;
  io::Reactor& lane = *io::Reactor::current();
  co_await at_home(
      *state_, changing(*state_, offset, length, state_->zero_range(lane, offset, length, flags.may_unmap)));
  if (flags.fua) co_await flush();
}

io::task<void> Image::discard(uint64_t offset, uint64_t length) {
  state_->require_access(/*to_write=*/true, offset, length);
  if (length == 0) co_return;
  co_await at_home(*state_, changing(*state_, offset, length, state_->discard_range(offset, length)));
}

io::task<void> Image::make_empty() {
  state_->require_access(/*to_write=*/true, 0, 0);
  co_await at_home(*state_, changing(*state_, 0, 0, state_->empty()));
}

namespace {

io::task<void> flush_at_home(State& state) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  state.require_usable();
  co_await state.write_back(/*durable=*/true);
}

block::Extent extent_of(const State& state, const Run& run) {
  block::Extent extent{.length_bytes = run.length_bytes};
  extent.allocated = run.storage != Storage::kUnallocated;
  extent.zero = state.reads_zero(run) && extent.allocated;
  extent.data = run.storage == Storage::kNormal || run.storage == Storage::kCompressed;
  extent.compressed = run.storage == Storage::kCompressed;
  if (run.has_host && state.header.crypt_method == CryptMethod::kNone) {
    extent.host_offset = run.host.bytes;
    extent.host_name = state.data().name();
  }
  return extent;
}

// Joins neighbouring runs of one kind, so that a caller sees extents, not slices.
io::task<block::Extent> map_at_home(State& state, uint64_t offset, uint64_t length) {
  block::Extent extent = extent_of(state, co_await state.lookup(offset, length));
  while (extent.length_bytes < length) {
    const uint64_t at = offset + extent.length_bytes;
    const block::Extent next = extent_of(state, co_await state.lookup(at, length - extent.length_bytes));
    const bool contiguous = extent.host_offset ? next.host_offset == *extent.host_offset + extent.length_bytes
                                               : !next.host_offset;
    if (next.allocated != extent.allocated || next.zero != extent.zero || next.data != extent.data ||
        next.compressed != extent.compressed || !contiguous)
      break;
    extent.length_bytes += next.length_bytes;
  }
  co_return extent;
}

}  // namespace

io::task<void> Image::flush() {
  if (state_->options.read_only) co_return;
  state_->file->raise(block::Event::kFlushToOs);
  co_await at_home(*state_, flush_at_home(*state_));
  state_->file->raise(block::Event::kFlushToDisk);
}

io::task<block::Extent> Image::map(uint64_t offset, uint64_t length) {
  return at_home(*state_, map_at_home(*state_, offset, length));
}

namespace {

// What is not stored stays in use on disk, so that nobody relies on it.
io::task<std::exception_ptr> store_bitmaps(State& state) {
  try {
    if (!state.damaged) co_await state.bitmaps.store();
  } catch (const Error&) {
    co_return std::current_exception();
  }
  co_return nullptr;
}

io::task<void> close_at_home(State& state) {
  std::exception_ptr lost_bitmaps;
  if (!state.options.read_only && (state.prepared_to_change || state.bitmaps.changed())) {
    const io::Mutex::Guard guard = co_await state.metadata.lock();
    lost_bitmaps = co_await store_bitmaps(state);
    co_await state.settle();
  }
  if (state.backing) co_await state.backing->close();
  if (state.external_data) co_await state.external_data->close();
  co_await state.file->close();
  if (lost_bitmaps) std::rethrow_exception(lost_bitmaps);
}

}  // namespace

io::task<void> Image::close() {
  return at_home(*state_, close_at_home(*state_));
}

}  // namespace cofre::qcow2
