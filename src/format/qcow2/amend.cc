#include "format/qcow2/amend.h"

#include "base/checked.h"
#include "format/qcow2/amend_context.h"
#include "format/qcow2/at_home.h"
#include "format/qcow2/header_update.h"

namespace cofre::qcow2 {
namespace {

template <typename... Args>
[[noreturn]] void refuse(ErrorKind kind, const State& state, fmt::format_string<Args...> format,
                         Args&&... args) {
  fail(kind, "'{}': {}", state.name, fmt::format(format, std::forward<Args>(args)...));
}

uint32_t new_version(const State& state, const AmendOptions& options) {
  return options.version.value_or(state.header.version);
}

void check_version3_options(const State& state, const AmendOptions& options) {
  if (new_version(state, options) >= 3) return;
  if (options.refcount_order.value_or(4) != 4)
    refuse(ErrorKind::kInvalidArgument, state, "version 2 has refcounts of 16 bits; add compat=1.1");
  if (options.lazy_refcounts.value_or(false))
    refuse(ErrorKind::kInvalidArgument, state, "version 2 has no lazy refcounts; add compat=1.1");
}

void check_downgrade(const State& state, const AmendOptions& options) {
  const Header& header = state.header;
  if (new_version(state, options) >= 3 || header.version < 3) return;
  if (options.refcount_order.value_or(header.refcount_order) != 4)
    refuse(ErrorKind::kUnsupported, state, "version 2 has refcounts of 16 bits; add refcount_bits=16");
  if (header.external_data())
    refuse(ErrorKind::kUnsupported, state, "version 2 has no data files; convert the image instead");
  if (header.extended_l2())
    refuse(ErrorKind::kUnsupported, state, "version 2 has no subclusters; convert the image instead");
  const uint64_t size = options.size_bytes.value_or(0) != 0 ? *options.size_bytes : state.length_bytes;
  for (const SnapshotEntry& snapshot : state.snapshots)
    if (snapshot.vm_state_bytes > UINT32_MAX || snapshot.disk_bytes != size)
      refuse(
          ErrorKind::kUnsupported, state,
          "version 2 cannot tell the size of the disk, or of the machine's state, in snapshot '{}'; delete "
          "the snapshot first",
          snapshot.name);
}

void check_data_file(const State& state, const AmendOptions& options) {
  if (options.data_file && !state.header.external_data())
    refuse(ErrorKind::kInvalidArgument, state,
           "it keeps its content itself; data_file is for images that were created with one");
  const bool is_raw = state.header.external_data() && state.header.raw_external_data();
  if (options.data_file_raw.value_or(false) && !is_raw)
    refuse(ErrorKind::kInvalidArgument, state,
           "data_file_raw=on is a promise that only a new image can make; convert the image instead");
}

void check_backing(const State& state, const AmendOptions& options) {
  if (!options.backing_file && !options.backing_format) return;
  const auto same = [](const std::optional<std::string>& given, const std::optional<std::string>& has) {
    return given.has_value() == has.has_value() && given.value_or("") == has.value_or("");
  };
  if (!same(options.backing_file, state.header.backing_file) ||
      !same(options.backing_format, state.header.backing_format))
    refuse(ErrorKind::kInvalidArgument, state, "the backing file is changed with rebase, not with amend");
}

// ---- steps; `metadata` is held in each ----

io::task<void> upgrade(AmendContext context) {
  State& state = context.state;
  co_await require_no_zero_flags(context);
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  Header changed = state.header;
  changed.version = 3;
  changed.feature_names = default_feature_names();
  co_await update_header(state, std::move(changed));
}

io::task<void> change_width(AmendContext context, uint32_t order) {
  const io::Mutex::Guard guard = co_await context.state.metadata.lock();
  co_await change_refcount_width(context, order);
}

// What the header alone says.
io::task<void> change_header(State& state, const AmendOptions& options) {
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  Header changed = state.header;
  if (options.data_file_raw == false) changed.autoclear_features &= ~uint64_t{kRawExternalData};
  if (options.data_file) changed.data_file = options.data_file;
  if (changed.data_file && changed.data_file->empty()) changed.data_file.reset();
  if (options.lazy_refcounts) {
    changed.compatible_features &= ~uint64_t{kLazyRefcounts};
    if (*options.lazy_refcounts) changed.compatible_features |= kLazyRefcounts;
  }
  const bool same = changed.autoclear_features == state.header.autoclear_features &&
                    changed.data_file == state.header.data_file &&
                    changed.compatible_features == state.header.compatible_features;
  if (!same) co_await update_header(state, std::move(changed));
}

io::task<void> downgrade(AmendContext context) {
  State& state = context.state;
  co_await expand_zero_clusters(context);
  const io::Mutex::Guard guard = co_await state.metadata.lock();
  co_await state.bitmaps.remove_all();  // version 2 has no bit to say that they are valid
  co_await state.settle();
  Header changed = state.header;
  changed.version = 2;
  changed.incompatible_features = 0;
  changed.compatible_features = 0;
  changed.autoclear_features = 0;
  changed.compression_type = CompressionType::kDeflate;
  changed.feature_names.clear();
  changed.unknown_fields.clear();
  co_await update_header(state, std::move(changed));
}

io::task<void> before_size(AmendContext context, const AmendOptions& options) {
  State& state = context.state;
  state.require_usable();
  if (new_version(state, options) > state.header.version) co_await upgrade(context);
  const uint32_t order = options.refcount_order.value_or(state.header.refcount_order);
  if (order != state.header.refcount_order) co_await change_width(context, order);
  co_await change_header(state, options);
}

}  // namespace

void validate_amendment(Image& image, const AmendOptions& options) {
  const State& state = image.state();
  check_version3_options(state, options);
  check_downgrade(state, options);
  check_data_file(state, options);
  check_backing(state, options);
  if (options.size_bytes && !is_aligned<uint64_t>(*options.size_bytes, kSectorBytes))
    refuse(ErrorKind::kInvalidArgument, state, "the size {} is not a multiple of 512 bytes",
           *options.size_bytes);
}

io::task<void> amend(Image& image, AmendOptions options, AmendHooks hooks) {
  validate_amendment(image, options);
  State& state = image.state();
  state.require_access(/*to_write=*/true, 0, 0);
  const AmendContext context{state, hooks};
  co_await at_home(state, before_size(context, options));
  if (options.size_bytes.value_or(0) != 0) co_await image.resize(*options.size_bytes);
  if (new_version(state, options) < state.header.version) co_await at_home(state, downgrade(context));
  co_await image.flush();
}

}  // namespace cofre::qcow2
