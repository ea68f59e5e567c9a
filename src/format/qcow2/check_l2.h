// The check of L2 tables, entry by entry.
#pragma once

#include "format/qcow2/check_context.h"

namespace cofre::qcow2 {

class L2Check {
 public:
  explicit L2Check(CheckContext& context);

  // Counts what the table refers to and reports what is wrong with it. True if entries in `table` were
  // repaired: then it has to be written.
  bool table(const TableUse& use, Bytes table);

 private:
  uint64_t plain_run();
  void plain(uint64_t count);
  ReferenceCounts::Flag flag_of(L2Entry entry) const noexcept;
  void compressed(L2Entry entry);
  void allocated(L2Entry entry);
  void unallocated(L2Entry entry);
  bool holds_data(L2Entry entry) const noexcept;
  void reference(uint64_t offset, uint64_t length, ReferenceCounts::Flag flag);
  // A fault that `mended` mends, if the table may be written; else it is counted.
  void mendable(const std::string& finding, const std::string& how, L2Entry mended);
  void corruption(const std::string& finding);
  bool may_repair() const noexcept { return context_.repair_errors && use_.alone; }
  void replace(L2Entry entry);

  CheckContext& context_;
  const Header& header_;
  uint64_t file_clusters_;
  TableUse use_;        // the table at hand
  Bytes table_;         // its bytes
  uint64_t index_ = 0;  // the entry at hand
  uint64_t next_ = 0;   // host offset at which the next cluster would follow without a gap
  bool changed_ = false;
};

}  // namespace cofre::qcow2
