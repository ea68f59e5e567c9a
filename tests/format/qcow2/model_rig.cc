#include "model_rig.h"

#include <algorithm>

namespace cofre::qcow2 {
namespace {

constexpr std::string_view kPassphrase = "open sesame";
constexpr uint64_t kSector = 512;

}  // namespace

ModelRig::ModelRig(const Shape& shape, uint64_t seed) : shape_(shape), random_(seed), reactor_(seed) {
  if (shape_.backing_bytes == 0) return;
  run(backing_.resize(shape_.backing_bytes));
  for (uint64_t at = 0; at < shape_.backing_bytes; at += kSector) {  // every other sector holds something
    if (random_() % 2 == 0) continue;
    const auto value = static_cast<std::byte>(random_());
    std::fill_n(backing_.content().begin() + static_cast<ptrdiff_t>(at),
                std::min(kSector, shape_.backing_bytes - at), value);
  }
}

void ModelRig::create() {
  CreateOptions options = shape_.create;
  if (shape_.backing_bytes > 0) options.backing_file = "backing.raw";
  if (options.data_file) run(data_file_.resize(options.size_bytes));
  run(create_image(file_, options, as_bytes(kPassphrase)));
  model_.assign(options.size_bytes, std::byte{0});
  std::copy_n(backing_.content().begin(), std::min<uint64_t>(shape_.backing_bytes, model_.size()),
              model_.begin());
}

io::task<std::unique_ptr<Image>> ModelRig::opening(block::Device& file, block::Device& data_file,
                                                   OpenOptions options) {
  options.l2_cache_bytes = options.refcount_cache_bytes = shape_.l2_cache_bytes;
  auto image = co_await Image::open(block::make_checked(std::make_unique<Borrowed>(file)), options);
  if (shape_.create.data_file)
    image->set_data_file(block::make_checked(std::make_unique<Borrowed>(data_file)));
  if (shape_.backing_bytes > 0) image->set_backing(block::make_checked(std::make_unique<Borrowed>(backing_)));
  if (image->needs_secret() && !options.for_check) co_await image->unlock(as_bytes(kPassphrase));
  co_return image;
}

std::unique_ptr<Image> ModelRig::open_over(block::Device& file, block::Device& data_file, bool for_check) {
  return run(opening(file, data_file, {.for_check = for_check}));
}

io::task<std::unique_ptr<Image>> ModelRig::opening_snapshot(block::Device& file, size_t number) {
  std::unique_ptr<Image> image = co_await opening(file, data_file_, {.read_only = true});
  co_await image->show_snapshot(number);
  co_return image;
}

std::unique_ptr<Image> ModelRig::open_snapshot(block::Device& file, size_t number) {
  return run(opening_snapshot(file, number));
}

void ModelRig::open() {
  image_ = open_over(file_, data_file_);
}

void ModelRig::close() {
  run(image_->close());
  image_.reset();
}

ModelRig::Request ModelRig::random_request() {
  Request request;
  const uint64_t kind = random_() % 10;
  request.kind = kind < 6 ? Kind::kWrite : kind < 8 ? Kind::kZero : Kind::kDiscard;
  request.flags.may_unmap = random_() % 2 == 0;
  request.flags.fua = random_() % 16 == 0;
  const uint64_t unit = random_() % 4 == 0 ? cluster_bytes() : kSector;
  const uint64_t most = random_() % 4 == 0 ? std::max<uint64_t>(4 * cluster_bytes(), 64 * kKiB) : 8 * kSector;
  request.offset = random_() % model_.size() / unit * unit;
  request.length = std::min((random_() % most / unit + 1) * unit, model_.size() - request.offset);
  if (request.kind == Kind::kWrite) {
    if (plain() && random_() % 4 == 0) make_compressed(request);
    fill(request);
  }
  return request;
}

bool ModelRig::plain() const {
  return shape_.create.encryption == CryptMethod::kNone && !shape_.create.data_file;
}

// Some whole clusters, or up to the disk's end.
void ModelRig::make_compressed(Request& request) {
  request.flags.compressed = true;
  request.offset = request.offset / cluster_bytes() * cluster_bytes();
  request.length = std::min((random_() % (random_() % 8 == 0 ? 40 : 4) + 1) * cluster_bytes(),
                            model_.size() - request.offset);
}

// Each sector repeats eight bytes of its own, which compresses; of some compressed writes, every other
// cluster does not.
void ModelRig::fill(Request& request) {
  request.bytes.resize(request.length);
  const bool noisy = request.flags.compressed && random_() % 3 == 0;
  for (uint64_t at = 0; at < request.length; at += kSector) {
    uint64_t value = random_() | 1;
    const bool noise = noisy && at / cluster_bytes() % 2 == 0;
    for (uint64_t i = 0; i < kSector; i += 8) {
      std::memcpy(request.bytes.data() + at + i, &value, 8);
      if (noise) value = random_();
    }
  }
}

// A discard of whole clusters reads as zero in version 3; in version 2 if nothing is below.
ModelRig::Effect ModelRig::effect_of(const Request& request) const {
  const uint64_t end = request.offset + request.length;
  if (request.kind != Kind::kDiscard) return {request.offset, end};
  if (shape_.create.version < 3 && shape_.backing_bytes > 0) return {};
  const uint64_t bytes = cluster_bytes();
  const uint64_t first = (request.offset + bytes - 1) / bytes * bytes;
  const uint64_t last = end == model_.size() ? end : end / bytes * bytes;
  return first < last ? Effect{first, last} : Effect{};
}

io::task<void> ModelRig::perform(const Request& request) {
  switch (request.kind) {
    case Kind::kWrite:
      return image_->write(request.offset, request.bytes, request.flags);
    case Kind::kZero:
      return image_->write_zeroes(request.offset, request.length, request.flags);
    default:
      return image_->discard(request.offset, request.length);
  }
}

namespace {

// Several requests, one after the other, with a flush now and then.
io::task<void> perform_in_turn(ModelRig& rig, std::span<const ModelRig::Request> requests) {
  for (const ModelRig::Request& request : requests) {
    co_await rig.perform(request);
    if (rig.random()() % 4 == 0) co_await rig.image().flush();
  }
}

io::task<void> perform_all(ModelRig& rig, std::span<const ModelRig::Request> requests) {
  io::TaskGroup group;
  for (size_t first = 0; first < requests.size();) {
    const size_t count = std::min<size_t>(1 + rig.random()() % 3, requests.size() - first);
    group.spawn(perform_in_turn(rig, requests.subspan(first, count)));
    first += count;
  }
  // A read beside them must end, whatever it sees.
  std::vector<std::byte> beside(64 * kKiB);
  group.spawn(rig.image().read(0, beside));
  co_await group.join();
}

}  // namespace

void ModelRig::burst(int count) {
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) requests.push_back(random_request());
  run(perform_all(*this, requests));
  settle(requests);
}

bool ModelRig::sector_agrees(const Request& request, uint64_t sector, ConstBytes now) const {
  if (request.kind != Kind::kWrite) return is_zero(now);
  return std::equal(now.begin(), now.end(),
                    request.bytes.begin() + static_cast<ptrdiff_t>(sector - request.offset));
}

void ModelRig::settle(const std::vector<Request>& requests) {
  for (const Request& request : requests) {
    const Effect effect = effect_of(request);
    if (effect.begin == effect.end) continue;
    std::vector<std::byte> now(effect.end - effect.begin);
    run(image_->read(effect.begin, now));
    for (uint64_t sector = effect.begin; sector < effect.end; sector += kSector) {
      const ConstBytes bytes = ConstBytes(now).subspan(sector - effect.begin, kSector);
      bool agrees = false;
      for (const Request& other : requests) {
        const Effect covers = effect_of(other);
        agrees =
            agrees || (sector >= covers.begin && sector < covers.end && sector_agrees(other, sector, bytes));
      }
      ASSERT_TRUE(agrees) << shape_.name << ": the sector at " << sector
                          << " holds none of the bytes written to it";
      std::ranges::copy(bytes, model_.begin() + static_cast<ptrdiff_t>(sector));
    }
  }
}

void ModelRig::verify() {
  std::vector<std::byte> now(model_.size());
  run(image_->read(0, now));
  const auto [in_model, in_image] = std::ranges::mismatch(model_, now);
  ASSERT_TRUE(in_model == model_.end()) << shape_.name << ": differs at " << in_model - model_.begin();
}

CheckResult ModelRig::check_over(block::Device& file) {
  std::string said;
  const std::unique_ptr<Image> image = open_over(file, data_file_, /*for_check=*/true);
  const CheckResult result = run(check(*image, {.report = [&](const std::string& s) { said += s + "\n"; }}));
  EXPECT_EQ(result.corruptions, 0u) << shape_.name << "\n" << said;
  EXPECT_EQ(result.check_errors, 0u) << shape_.name << "\n" << said;
  return result;
}

void ModelRig::check_over_unless_dirty(block::Device& file) {
  if (!is_dirty(file)) check_over(file);
}

bool ModelRig::is_dirty(block::Device& file) {
  return open_over(file, data_file_, /*for_check=*/true)->is_dirty();
}

void ModelRig::expect_clean() {
  EXPECT_EQ(check_over(file_).leaks, 0u) << shape_.name;
  const std::unique_ptr<Image> image = open_over(file_, data_file_, /*for_check=*/true);
  EXPECT_FALSE(image->is_dirty()) << shape_.name;
  EXPECT_FALSE(image->is_corrupt()) << shape_.name;
}

Shape shape_of(std::string name, uint32_t cluster_bits, uint64_t size, uint32_t refcount_order) {
  Shape shape{.name = std::move(name), .create = {}};
  shape.create.size_bytes = size;
  shape.create.cluster_bits = cluster_bits;
  shape.create.refcount_order = refcount_order;
  shape.create.luks.forced_iterations = 1000;
  return shape;
}

namespace {

void add_cluster_sizes(std::vector<Shape>& shapes) {
  for (uint32_t bits = 9; bits <= 21; ++bits) {
    const uint64_t size = std::max<uint64_t>(kMiB, uint64_t{12} << bits) + 7 * kSector;
    const uint32_t order = (bits - 9) % 7;
    shapes.push_back(shape_of("clusters of " + std::to_string(1u << bits), bits, size, order));
    if (bits < 14) continue;
    shapes.push_back(shape_of("subclusters in " + std::to_string(1u << bits), bits, size));
    shapes.back().create.extended_l2 = true;
  }
}

void add_backing(std::vector<Shape>& shapes) {
  for (const uint64_t backing_bytes : {300 * kKiB, kMiB + 11 * kSector, 2 * kMiB}) {
    for (const bool extended : {false, true}) {
      shapes.push_back(
          shape_of("backing of " + std::to_string(backing_bytes), extended ? 15 : 12, kMiB + 3 * kSector));
      shapes.back().create.extended_l2 = extended;
      shapes.back().backing_bytes = backing_bytes;
    }
  }
  shapes.push_back(shape_of("version 2 with backing", 12, kMiB));
  shapes.back().create.version = 2;
  shapes.back().backing_bytes = 700 * kKiB;
}

void add_encrypted(std::vector<Shape>& shapes) {
  for (const CryptMethod method : {CryptMethod::kAes, CryptMethod::kLuks}) {
    for (const uint64_t backing_bytes : {uint64_t{0}, 600 * kKiB}) {
      shapes.push_back(shape_of("encrypted", 13, kMiB + 5 * kSector));
      shapes.back().create.encryption = method;
      shapes.back().backing_bytes = backing_bytes;
      shapes.push_back(shape_of("encrypted subclusters", 16, 4 * kMiB));
      shapes.back().create.encryption = method;
      shapes.back().create.extended_l2 = true;
      shapes.back().backing_bytes = backing_bytes;
    }
  }
}

void add_data_files(std::vector<Shape>& shapes) {
  for (const bool raw : {false, true}) {
    for (const bool extended : {false, true}) {
      shapes.push_back(shape_of(raw ? "raw data file" : "data file", 14, 2 * kMiB));
      shapes.back().create.data_file = "data.raw";
      shapes.back().create.data_file_raw = raw;
      shapes.back().create.extended_l2 = extended;
    }
  }
  for (const bool raw : {false, true}) {
    shapes.push_back(shape_of("encrypted data file", 14, 2 * kMiB));
    shapes.back().create.data_file = "data.raw";
    shapes.back().create.data_file_raw = raw;
    shapes.back().create.encryption = CryptMethod::kLuks;
  }
  shapes.push_back(shape_of("data file over backing", 14, 2 * kMiB));
  shapes.back().create.data_file = "data.raw";
  shapes.back().backing_bytes = kMiB;
}

}  // namespace

std::vector<Shape> all_shapes() {
  std::vector<Shape> shapes;
  add_cluster_sizes(shapes);
  add_backing(shapes);
  add_encrypted(shapes);
  add_data_files(shapes);
  shapes.push_back(shape_of("version 2", 12, kMiB));
  shapes.back().create.version = 2;
  shapes.push_back(shape_of("zstd", 12, kMiB + 5 * kSector));
  shapes.back().create.compression_type = CompressionType::kZstd;
  shapes.push_back(shape_of("zstd in subclusters over backing", 16, 3 * kMiB + kSector, 2));
  shapes.back().create.compression_type = CompressionType::kZstd;
  shapes.back().create.extended_l2 = true;
  shapes.back().backing_bytes = kMiB;
  shapes.push_back(shape_of("refcounts of 2 bits", 12, kMiB, 1));
  shapes.push_back(shape_of("lazy refcounts", 9, kMiB));
  shapes.back().create.lazy_refcounts = true;
  shapes.push_back(shape_of("many small clusters", 9, 12 * kMiB, 6));  // grows its refcount table
  return shapes;
}

}  // namespace cofre::qcow2
