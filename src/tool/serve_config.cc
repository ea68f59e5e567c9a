#include "tool/serve_config.h"

#include <toml++/toml.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "base/error.h"
#include "export/nbd/protocol.h"

namespace cofre::tool {
namespace {

enum class Kind { kText, kTexts, kNumber, kFlag };

struct ServerKey {
  std::string_view key;
  Kind kind;
  const char* option;
};

constexpr std::array kServerKeys = {
    ServerKey{"nbd", Kind::kTexts, "--nbd"},
    ServerKey{"objects", Kind::kTexts, "--object"},
    ServerKey{"passphrase-file", Kind::kText, "--passphrase-file"},
    ServerKey{"shared", Kind::kNumber, "--shared"},
    ServerKey{"cache", Kind::kText, "--cache"},
    ServerKey{"socket-mode", Kind::kText, "--socket-mode"},
    ServerKey{"tls-creds", Kind::kText, "--tls-creds"},
    ServerKey{"tls-authz", Kind::kText, "--tls-authz"},
    ServerKey{"num-queues", Kind::kNumber, "--num-queues"},
    ServerKey{"queue-size", Kind::kNumber, "--queue-size"},
    ServerKey{"poll-us", Kind::kNumber, "--poll-us"},
    ServerKey{"control", Kind::kText, "--control"},
    ServerKey{"metrics", Kind::kText, "--metrics"},
    ServerKey{"log", Kind::kText, "--log"},
    ServerKey{"pid-file", Kind::kText, "--pid-file"},
    ServerKey{"verbose", Kind::kFlag, "--verbose"},
};

[[noreturn]] void refuse(const std::string& path, const toml::source_region& where,
                         const std::string& sentence) {
  fail(ErrorKind::kInvalidArgument, "{}:{}:{}: {}", path, where.begin.line, where.begin.column, sentence);
}

// A table of the file. Readers take the keys they know; finish() refuses the rest.
class Table {
 public:
  Table(const std::string& path, std::string name, const toml::table& table)
      : path_(path), name_(std::move(name)), table_(table) {}

  std::optional<std::string> text(std::string_view key) {
    const toml::node* const value = take(key);
    if (value == nullptr) return std::nullopt;
    return text_of(key, *value);
  }
  std::optional<int64_t> number(std::string_view key) {
    const toml::node* const value = take(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_integer()) refuse_value(key, *value, "a whole number");
    return value->as_integer()->get();
  }
  bool flag(std::string_view key) {
    const toml::node* const value = take(key);
    if (value == nullptr) return false;
    if (!value->is_boolean()) refuse_value(key, *value, "true or false");
    return value->as_boolean()->get();
  }
  // A list of strings, or one string.
  std::vector<std::string> texts(std::string_view key) {
    const toml::node* const value = take(key);
    if (value == nullptr) return {};
    if (value->is_string()) return {text_of(key, *value)};
    if (!value->is_array()) refuse_value(key, *value, "a list of strings");
    std::vector<std::string> all;
    for (const toml::node& one : *value->as_array()) all.push_back(text_of(key, one));
    return all;
  }
  std::string needed(std::string_view key) {
    std::optional<std::string> value = text(key);
    if (!value) refuse(path_, table_.source(), fmt::format("{} has no '{}'", name_, key));
    return std::move(*value);
  }

  void finish() const {
    for (const auto& [key, value] : table_)
      if (!taken_.contains(std::string(key.str())))
        refuse(path_, key.source(), fmt::format("{} has no key '{}'", name_, key.str()));
  }
  [[noreturn]] void refuse_key(std::string_view key, const std::string& sentence) const {
    const toml::node* const value = table_.get(key);
    refuse(path_, value != nullptr ? value->source() : table_.source(), sentence);
  }

 private:
  const toml::node* take(std::string_view key) {
    taken_.insert(std::string(key));
    return table_.get(key);
  }
  std::string text_of(std::string_view key, const toml::node& value) const {
    if (!value.is_string()) refuse_value(key, value, "a string");
    return value.as_string()->get();
  }
  [[noreturn]] void refuse_value(std::string_view key, const toml::node& value, const char* kind) const {
    refuse(path_, value.source(), fmt::format("'{}' takes {}", key, kind));
  }

  const std::string& path_;
  std::string name_;
  const toml::table& table_;
  std::set<std::string> taken_;
};

void add_option(Table& table, const ServerKey& key, std::vector<std::string>& options) {
  const std::string option = key.option;
  switch (key.kind) {
    case Kind::kText:
      if (const auto value = table.text(key.key)) options.push_back(option + "=" + *value);
      break;
    case Kind::kTexts:
      for (const std::string& value : table.texts(key.key)) options.push_back(option + "=" + value);
      break;
    case Kind::kNumber:
      if (const auto value = table.number(key.key)) options.push_back(fmt::format("{}={}", option, *value));
      break;
    case Kind::kFlag:
      if (table.flag(key.key)) options.push_back(option);
      break;
  }
}

image::ImageName image_name(Table& table) {
  const std::optional<std::string> options = table.text("image-opts");
  const std::optional<std::string> format = table.text("format");
  if (options && (format || table.text("image")))
    table.refuse_key("image-opts", "'image-opts' stands for 'image' and 'format': give driver=FMT in it");
  if (options) return image::parse_image_options(*options);
  std::optional<image::Format> parsed;
  if (format) parsed = image::parse_format(*format);
  image::ImageName name = image::parse_image_name(table.needed("image"), parsed);
  const std::optional<std::string> secret = table.text("key-secret");
  if (!secret) return name;
  if (parsed != image::Format::kQcow2 && parsed != image::Format::kLuks)
    table.refuse_key("key-secret", "'key-secret' needs 'format', qcow2 or luks");
  name.options.set(parsed == image::Format::kLuks ? "key-secret" : "encrypt.key-secret", *secret);
  return name;
}

// A secret that a service manager passed (LoadCredential= of systemd).
std::string credential_file(const Table& table, const std::string& name) {
  const char* const folder = std::getenv("CREDENTIALS_DIRECTORY");
  if (folder == nullptr)
    table.refuse_key("passphrase-credential",
                     "no service manager passed credentials ($CREDENTIALS_DIRECTORY is not set)");
  if (name.empty() || name.find('/') != std::string::npos)
    table.refuse_key("passphrase-credential", fmt::format("'{}' is no name of a credential", name));
  return fmt::format("{}/{}", folder, name);
}

ConfiguredExport read_export(const std::string& path, const toml::table& node) {
  Table table(path, "[[export]]", node);
  ConfiguredExport made = {.image = {.name = image_name(table)}, .vhost_path = {}, .serial = {}};
  made.image.export_name = table.needed("name");
  made.image.description = table.text("description").value_or("");
  made.image.bitmaps = table.texts("bitmaps");
  if (table.flag("read-only")) made.image.read_only = true;
  made.image.passphrase_file = table.text("passphrase-file");
  if (const auto credential = table.text("passphrase-credential"))
    made.image.passphrase_file = credential_file(table, *credential);
  made.vhost_path = table.text("vhost-user-blk").value_or("");
  made.serial = table.text("serial").value_or("");
  table.finish();
  for (const char* key : {"name", "description"})
    if (table.text(key).value_or("").size() > nbd::kMaxStringBytes)
      table.refuse_key(key, fmt::format("a name or description has at most {} bytes", nbd::kMaxStringBytes));
  if (made.serial.size() > vhost::kSerialBytes)
    table.refuse_key("serial", fmt::format("a serial has at most {} bytes", vhost::kSerialBytes));
  if (!made.serial.empty() && made.vhost_path.empty())
    table.refuse_key("serial", "'serial' is a matter of 'vhost-user-blk'");
  return made;
}

toml::table parse_file(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) fail_errno(errno != 0 ? errno : EIO, "cannot read '{}'", path);
  try {
    return toml::parse(text.str(), path);
  } catch (const toml::parse_error& error) {
    refuse(path, error.source(), std::string(error.description()));
  }
}

ServeConfig read_tables(const std::string& path, const toml::table& file) {
  ServeConfig config;
  for (const auto& [key, value] : file) {
    if (key.str() == "server" && value.is_table()) {
      Table table(path, "[server]", *value.as_table());
      for (const ServerKey& known : kServerKeys) add_option(table, known, config.options);
      table.finish();
    } else if (key.str() == "export" && value.is_array_of_tables()) {
      for (const toml::node& one : *value.as_array())
        config.exports.push_back(read_export(path, *one.as_table()));
    } else {
      refuse(path, key.source(), fmt::format("'{}' is none of [server] and [[export]]", key.str()));
    }
  }
  return config;
}

}  // namespace

ServeConfig read_serve_config(const std::string& path) {
  const toml::table file = parse_file(path);
  return read_tables(path, file);
}

void append_exports(const std::vector<ConfiguredExport>& exports, std::vector<ServedImage>& images,
                    VhostPlan& vhost) {
  const bool machines = std::ranges::any_of(exports, [](const auto& one) { return !one.vhost_path.empty(); });
  if (machines || !vhost.paths.empty()) {
    vhost.paths.resize(images.size());
    vhost.serials.resize(images.size());
  }
  for (const ConfiguredExport& one : exports) {
    images.push_back(one.image);
    if (!machines && vhost.paths.empty()) continue;
    vhost.paths.push_back(one.vhost_path);
    vhost.serials.push_back(one.serial);
  }
}

}  // namespace cofre::tool
