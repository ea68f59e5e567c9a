#include "export/nbd/options.h"

#include <algorithm>

namespace cofre::nbd {
namespace {

// Takes integers and strings off the front of the data; once something was not there, nothing is any more.
class Reader {
 public:
  explicit Reader(ConstBytes data) noexcept : rest_(data) {}

  template <typename T>
  T integer() noexcept {
    if (rest_.size() < sizeof(T)) {
      good_ = false;
      rest_ = {};
      return 0;
    }
    const T value = load_be<T>(rest_.data());
    rest_ = rest_.subspan(sizeof(T));
    return value;
  }

  std::string string(size_t length) {
    if (length > kMaxStringBytes || length > rest_.size()) {
      good_ = false;
      rest_ = {};
      return {};
    }
    std::string text(reinterpret_cast<const char*>(rest_.data()), length);
    rest_ = rest_.subspan(length);
    good_ = good_ && text.find('\0') == std::string::npos;
    return text;
  }

  size_t left() const noexcept { return rest_.size(); }
  bool good() const noexcept { return good_; }
  bool ended_well() const noexcept { return good_ && rest_.empty(); }

 private:
  ConstBytes rest_;
  bool good_ = true;
};

}  // namespace

bool InfoQuery::wants(Info info) const noexcept {
  return std::ranges::find(wanted, static_cast<uint16_t>(info)) != wanted.end();
}

bool MetaQuery::wants(const std::string& context, bool listing) const noexcept {
  if (listing && queries.empty()) return true;
  return std::ranges::any_of(queries, [&](const std::string& query) {
    return query == context || (listing && query.ends_with(':') && context.starts_with(query));
  });
}

std::optional<InfoQuery> parse_info_query(ConstBytes data) {
  Reader reader(data);
  InfoQuery query;
  query.name = reader.string(reader.integer<uint32_t>());
  const uint16_t count = reader.integer<uint16_t>();
  if (!reader.good() || reader.left() != size_t{count} * 2) return std::nullopt;
  for (uint16_t i = 0; i < count; ++i) query.wanted.push_back(reader.integer<uint16_t>());
  return query;
}

std::optional<MetaQuery> parse_meta_query(ConstBytes data) {
  Reader reader(data);
  MetaQuery query;
  query.name = reader.string(reader.integer<uint32_t>());
  const uint32_t count = reader.integer<uint32_t>();
  if (!reader.good() || count > reader.left() / 4) return std::nullopt;
  for (uint32_t i = 0; i < count && reader.good(); ++i)
    query.queries.push_back(reader.string(reader.integer<uint32_t>()));
  if (!reader.ended_well()) return std::nullopt;
  return query;
}

std::optional<std::string> parse_export_name(ConstBytes data) {
  Reader reader(data);
  std::string name = reader.string(data.size());
  if (!reader.ended_well()) return std::nullopt;
  return name;
}

}  // namespace cofre::nbd
