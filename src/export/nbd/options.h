// The data of options that clients send in the handshake, taken apart. Source: the NBD protocol
// specification, "Option types". Hostile input; codecs without I/O; any lane.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "export/nbd/protocol.h"

namespace cofre::nbd {

// NBD_OPT_INFO, NBD_OPT_GO.
struct InfoQuery {
  std::string name;
  std::vector<uint16_t> wanted;  // Info, known or not

  bool wants(Info info) const noexcept;
};

// NBD_OPT_LIST_META_CONTEXT, NBD_OPT_SET_META_CONTEXT.
struct MetaQuery {
  std::string name;
  std::vector<std::string> queries;

  // Whether the client asked for the context `name`: by its whole name, or, when `listing`, by no query at
  // all or by a leading part that ends with a colon.
  bool wants(const std::string& context, bool listing) const noexcept;
};

// Nothing: the data is not what the specification says. Strings are checked for their length and for NULs.
std::optional<InfoQuery> parse_info_query(ConstBytes data);
std::optional<MetaQuery> parse_meta_query(ConstBytes data);
// The data of NBD_OPT_EXPORT_NAME.
std::optional<std::string> parse_export_name(ConstBytes data);

}  // namespace cofre::nbd
