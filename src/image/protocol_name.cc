#include "image/protocol_name.h"

#include <charconv>

#include "base/error.h"

namespace cofre::image {
namespace {

constexpr std::string_view kExportName = ":exportname=";

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

std::string percent_decoded(std::string_view text, const std::string& name) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? hex_value(text[i + 1]) : -1;
    const int low = i + 2 < text.size() ? hex_value(text[i + 2]) : -1;
    if (high < 0 || low < 0 || (high == 0 && low == 0))
      fail(ErrorKind::kInvalidArgument, "'{}': a % in a URL is followed by two hexadecimal digits", name);
    decoded += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return decoded;
}

void set_inet(Options& options, std::string_view host, std::string_view port, const std::string& name) {
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (host.empty()) fail(ErrorKind::kInvalidArgument, "'{}' names no host", name);
  options.set("server.type", "inet");
  options.set("server.host", std::string(host));
  options.set("server.port", port.empty() ? "10809" : std::string(port));
}

// The host and the port after the last colon that is not within brackets.
std::pair<std::string_view, std::string_view> split_port(std::string_view authority) {
  const size_t colon = authority.rfind(':');
  const size_t bracket = authority.rfind(']');
  if (colon == std::string_view::npos || (bracket != std::string_view::npos && colon < bracket))
    return {authority, {}};
  return {authority.substr(0, colon), authority.substr(colon + 1)};
}

// The value of `socket` in "socket=PATH&...".
std::string socket_of(std::string_view query, const std::string& name) {
  constexpr std::string_view kSocket = "socket=";
  if (!query.starts_with(kSocket) || query.contains('&'))
    fail(ErrorKind::kInvalidArgument, "'{}': a URL of NBD over a Unix socket ends with ?socket=PATH only",
         name);
  return percent_decoded(query.substr(kSocket.size()), name);
}

// RFC-like "scheme://authority/export?query" of the NBD URI specification.
Options parse_nbd_url(const std::string& name, std::string_view scheme) {
  std::string_view rest = std::string_view(name).substr(scheme.size() + 3);
  std::string_view query;
  if (const size_t mark = rest.find('?'); mark != std::string_view::npos) {
    query = rest.substr(mark + 1);
    rest = rest.substr(0, mark);
  }
  const size_t slash = rest.find('/');
  const std::string_view authority = rest.substr(0, slash);
  const std::string export_name =
      slash == std::string_view::npos ? "" : percent_decoded(rest.substr(slash + 1), name);
  Options options;
  options.set("driver", "nbd");
  if (!export_name.empty()) options.set("export", export_name);
  if (scheme.ends_with("+unix")) {
    if (!authority.empty())
      fail(ErrorKind::kInvalidArgument, "'{}': a URL of NBD over a Unix socket names no host", name);
    options.set("server.type", "unix");
    options.set("server.path", socket_of(query, name));
    return options;
  }
  if (!query.empty()) fail(ErrorKind::kInvalidArgument, "'{}': '?{}' is not understood", name, query);
  const auto [host, port] = split_port(authority);
  set_inet(options, host, port, name);
  return options;
}

// "nbd:unix:PATH" or "nbd:HOST:PORT", and ":exportname=EXPORT" to the end.
Options parse_old_nbd_name(const std::string& name) {
  std::string_view rest = std::string_view(name).substr(4);
  Options options;
  options.set("driver", "nbd");
  if (const size_t at = rest.find(kExportName); at != std::string_view::npos) {
    const std::string_view export_name = rest.substr(at + kExportName.size());
    if (!export_name.empty()) options.set("export", std::string(export_name));
    rest = rest.substr(0, at);
  }
  if (rest.starts_with("unix:")) {
    options.set("server.type", "unix");
    options.set("server.path", std::string(rest.substr(5)));
    return options;
  }
  const auto [host, port] = split_port(rest);
  if (port.empty()) fail(ErrorKind::kInvalidArgument, "'{}': write nbd:HOST:PORT or nbd:unix:PATH", name);
  set_inet(options, host, port, name);
  return options;
}

Options with_filename(const std::string& driver, std::string_view path) {
  Options options;
  options.set("driver", driver);
  options.set("filename", std::string(path));
  return options;
}

void put_under(Options& into, const std::string& child, const Options& options) {
  for (const auto& [key, value] : options.values()) into.set(child + "." + key, value);
}

Options parse_blkdebug(const std::string& name, std::string_view rest) {
  const size_t colon = rest.find(':');
  if (colon == std::string_view::npos)
    fail(ErrorKind::kInvalidArgument, "'{}': write blkdebug:CONFIG:IMAGE; CONFIG may be empty", name);
  Options options;
  options.set("driver", "blkdebug");
  if (colon > 0) options.set("config", std::string(rest.substr(0, colon)));
  put_under(options, "image", parse_protocol_name(std::string(rest.substr(colon + 1))));
  return options;
}

Options parse_blkverify(const std::string& name, std::string_view rest) {
  const size_t colon = rest.find(':');
  if (colon == std::string_view::npos)
    fail(ErrorKind::kInvalidArgument, "'{}': write blkverify:RAW:IMAGE", name);
  Options options;
  options.set("driver", "blkverify");
  put_under(options, "raw", parse_protocol_name(std::string(rest.substr(0, colon))));
  // The image under test is told by its content.
  put_under(options, "test.file", parse_protocol_name(std::string(rest.substr(colon + 1))));
  return options;
}

}  // namespace

std::string_view protocol_of(std::string_view name) {
  const size_t colon = name.find_first_of(":/");
  return colon != std::string_view::npos && colon > 0 && name[colon] == ':' ? name.substr(0, colon)
                                                                            : std::string_view();
}

Options parse_protocol_name(const std::string& name) {
  const std::string_view protocol = protocol_of(name);
  if (protocol.empty()) return with_filename("file", name);
  const std::string_view rest = std::string_view(name).substr(protocol.size() + 1);
  if (protocol == "file" || protocol == "host_device") return with_filename(std::string(protocol), rest);
  const bool is_url = rest.starts_with("//");
  for (const std::string_view scheme : {"nbd", "nbd+tcp", "nbd+unix", "nbds", "nbds+unix"})
    if (protocol == scheme && is_url) return parse_nbd_url(name, scheme);
  if (protocol == "nbd") return parse_old_nbd_name(name);
  if (protocol == "null-co" || protocol == "null-aio") {
    if (rest != "//")
      fail(ErrorKind::kInvalidArgument, "'{}': the only name for this driver is '{}://'", name, protocol);
    Options options;
    options.set("driver", std::string(protocol));
    return options;
  }
  if (protocol == "blkdebug") return parse_blkdebug(name, rest);
  if (protocol == "blkverify") return parse_blkverify(name, rest);
  fail(ErrorKind::kUnsupported, "'{}': protocol '{}' is not supported; for a file of that name write './{}'",
       name, protocol, name);
}

}  // namespace cofre::image
