// A ModelRig with internal snapshots, and what each of them must read as.
#pragma once

#include <deque>

#include "model_rig.h"

namespace cofre::qcow2 {

struct KeptSnapshot {
  std::string name;
  std::vector<std::byte> content;
};

class SnapshotRig : public ModelRig {
 public:
  using ModelRig::ModelRig;

  std::deque<KeptSnapshot>& kept() noexcept { return kept_; }

  // Each changes the image and what is expected of it.
  void create_snapshot() {
    run(image().create_snapshot(next()));
    kept_.push_back({image().snapshots().back().name, model()});
  }
  void apply(size_t number) {
    run(image().apply_snapshot(number));
    model() = kept_[number].content;
  }
  void remove(size_t number) {
    run(image().delete_snapshot(number));
    kept_.erase(kept_.begin() + static_cast<ptrdiff_t>(number));
  }
  SnapshotEntry next() {
    SnapshotEntry snapshot;
    snapshot.name = "s" + std::to_string(count_++);
    return snapshot;
  }

  std::vector<std::byte> content_of(Image& image) {
    std::vector<std::byte> content(image.length_bytes());
    run(image.read(0, content));
    return content;
  }
  // Every snapshot of the image in `file` is one of those kept, in their order, and reads as it should.
  void verify_snapshots(block::Device& file) {
    std::unique_ptr<Image> image = open_over(file, data_file(), /*for_check=*/true);
    const std::vector<SnapshotEntry> snapshots = image->snapshots();
    image.reset();
    ASSERT_EQ(snapshots.size(), kept_.size());
    for (size_t i = 0; i < snapshots.size(); ++i) {
      EXPECT_EQ(snapshots[i].name, kept_[i].name);
      const std::vector<std::byte> content = content_of(*open_snapshot(file, i));
      ASSERT_EQ(content.size(), kept_[i].content.size()) << snapshots[i].name;
      const auto differs = std::ranges::mismatch(content, kept_[i].content).in1;
      ASSERT_TRUE(differs == content.end())
          << snapshots[i].name << " differs at " << differs - content.begin();
    }
  }

 private:
  std::deque<KeptSnapshot> kept_;
  int count_ = 0;
};

}  // namespace cofre::qcow2
