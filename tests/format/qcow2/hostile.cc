#include "hostile.h"

#include <cstdio>
#include <cstdlib>

#include "block/checked.h"
#include "format/qcow2/check.h"
#include "format/qcow2/image.h"
#include "io/simulated_reactor.h"
#include "storage/memory.h"
#include "support.h"

namespace cofre::qcow2 {
namespace {

constexpr uint64_t kMostRead = 2 * kMiB;

[[noreturn]] void give_up(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

class Attempt {
 public:
  Attempt(const std::vector<std::byte>& bytes, uint64_t seed) : seed_(seed), reactor_(seed) {
    run(file_.resize(bytes.size()));
    file_.content() = bytes;
    run(data_file_.resize(kMiB));
  }

  void everything() {
    attempt([&] { read_all({.read_only = true}); });
    attempt([&] { read_all({}); });
    attempt([&] { check_only(); });
    attempt([&] { repair_all(); });
  }

 private:
  template <typename T>
  T run(io::task<T> work) {
    return reactor_.run_until_done(std::move(work));
  }
  template <typename F>
  void attempt(F&& action) {
    try {
      action();
    } catch (const Error&) {
      // what it should say if anything is wrong
    }
  }

  std::unique_ptr<Image> open(const OpenOptions& options) {
    auto image = run(Image::open(block::make_checked(std::make_unique<Borrowed>(file_)), options));
    if (image->header().external_data()) image->set_data_file(std::make_unique<Borrowed>(data_file_));
    if (image->header().crypt_method == CryptMethod::kAes) run(image->unlock(as_bytes("key")));
    return image;
  }

  void read_all(const OpenOptions& options) {
    const std::unique_ptr<Image> image = open(options);
    std::vector<std::byte> piece(64 * kKiB);
    const uint64_t end = std::min(image->length_bytes(), kMostRead);
    for (uint64_t at = 0; at < end; at += piece.size()) {
      const Bytes part = Bytes(piece).first(std::min<uint64_t>(piece.size(), end - at));
      attempt([&] { run(image->read(at, part)); });
      attempt([&] { run(image->map(at, image->length_bytes() - at)); });
    }
  }

  void check_only() {
    const std::unique_ptr<Image> image = open({.read_only = true, .for_check = true});
    run(check(*image, {}));
  }

  void repair_all() {
    {
      const std::unique_ptr<Image> image = open({.for_check = true});
      const CheckResult result = run(check(*image, {.repair_leaks = true, .repair_errors = true}));
      run(image->close());
      if (result.corruptions + result.leaks + result.check_errors > 0) return;
    }
    write_to_sound();
    const std::unique_ptr<Image> image = open({.read_only = true, .for_check = true});
    // Two entries for one cluster are sound once its refcount is 2; when one of them goes, only the other's
    // copied flag is behind. A refcount below the references would be a fault of ours.
    run(check(*image, {.report = [this](const std::string& sentence) {
      if (sentence.starts_with("cluster "))
        give_up("seed " + std::to_string(seed_) +
                ": an image that was repaired went bad by writes: " + sentence);
    }}));
  }

  void write_to_sound() {
    const std::unique_ptr<Image> image = open({});
    const std::vector<std::byte> bytes(20 * kKiB, std::byte{7});
    const uint64_t end = std::min(image->length_bytes(), kMostRead);
    for (uint64_t at = 0; at + bytes.size() < end; at += 100 * kKiB) {
      attempt([&] { run(image->write(at, bytes)); });
      attempt([&] { run(image->write_zeroes(at + 8192, 16 * kKiB, {.may_unmap = true})); });
      attempt([&] { run(image->discard(at, 64 * kKiB)); });
    }
    run(image->flush());
    run(image->close());
  }

  const uint64_t seed_;
  io::SimulatedReactor reactor_;
  storage::MemoryDevice file_{0, "hostile.qcow2"};
  storage::MemoryDevice data_file_{0, "data.raw"};
};

}  // namespace

void try_everything(const std::vector<std::byte>& bytes, uint64_t seed) {
  Attempt(bytes, seed).everything();
}

}  // namespace cofre::qcow2
