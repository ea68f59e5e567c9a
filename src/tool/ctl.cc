// cofre ctl: asks a running `cofre serve`, or tells it what to do, over its control socket.
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"
#include "base/owned_fd.h"
#include "export/control/request.h"
#include "image/protocol_name.h"
#include "image/size.h"
#include "tool/command_line.h"
#include "tool/ctl_report.h"

namespace cofre::tool {
namespace {

using control::Json;

constexpr const char* kDefaultSocket = "/run/cofre/control";
// Of a status with many exports.
constexpr size_t kMostAnswerBytes = 64 * kMiB;

struct CtlArguments {
  std::string socket = kDefaultSocket;
  std::string output = "human";
  std::optional<std::string> format;
  bool image_opts = false;
  bool read_only = false;
  std::vector<std::string> bitmaps;
  std::optional<std::string> description;
  std::optional<std::string> passphrase_file;
  std::optional<std::string> key_secret;
  bool force = false;
  std::optional<std::string> granularity;
  std::vector<std::string> words;
};

void declare(CommandLine& line, CtlArguments& into) {
  line.value("--socket", into.socket, "PATH",
             fmt::format("The server's control socket (serve --control); {} by default", kDefaultSocket));
  line.value("--output", into.output, "FORM", "human (default) or json: the server's answer as it is");
  line.value("-f,--format", into.format, "FMT", "export-add: the image's format");
  line.flag("--image-opts", into.image_opts, "export-add: the image is named by options: driver=qcow2,...");
  line.flag("-r,--read-only", into.read_only, "export-add: clients can read only");
  line.values("-B,--bitmap", into.bitmaps, "NAME",
              "export-add: tell clients of a persistent dirty bitmap; may be given several times");
  line.value("-D,--description", into.description, "TEXT", "export-add: a description");
  line.value("--passphrase-file", into.passphrase_file, "PATH",
             "export-add: the file that holds the image's passphrase; the server reads it");
  line.value("--key-secret", into.key_secret, "ID",
             "export-add: the server's --object that holds the image's passphrase");
  line.flag("--force", into.force, "export-remove: send clients away");
  line.value("-g,--granularity", into.granularity, "SIZE", "bitmap-add: bytes that a bit stands for");
  line.arguments(
      into.words, "COMMAND",
      "status, export-add EXPORT IMAGE, export-remove EXPORT, bitmap-list EXPORT, bitmap-add EXPORT "
      "BITMAP, bitmap-remove EXPORT BITMAP, bitmap-clear EXPORT BITMAP, snapshot-list EXPORT, "
      "snapshot-create EXPORT NAME, snapshot-delete EXPORT NAME, rotate-log, stop");
}

// What the words after a command are.
struct Shape {
  const char* command;
  std::vector<const char*> fields;
};

const Shape* find_shape(const std::string& command) {
  static const std::vector<Shape> kShapes = {
      {"status", {}},
      {"export-add", {"export", "image"}},
      {"export-remove", {"export"}},
      {"bitmap-list", {"export"}},
      {"bitmap-add", {"export", "bitmap"}},
      {"bitmap-remove", {"export", "bitmap"}},
      {"bitmap-clear", {"export", "bitmap"}},
      {"snapshot-list", {"export"}},
      {"snapshot-create", {"export", "snapshot"}},
      {"snapshot-apply", {"export", "snapshot"}},
      {"snapshot-delete", {"export", "snapshot"}},
      {"rotate-log", {}},
      {"stop", {}},
  };
  for (const Shape& shape : kShapes)
    if (command == shape.command) return &shape;
  return nullptr;
}

// The server's folder is another one.
std::string seen_from_anywhere(const std::string& path) {
  return std::filesystem::absolute(path).string();
}

Json make_request(const CommandLine& line, const CtlArguments& given) {
  if (given.words.empty()) line.fail_usage("expecting a command: status, export-add, ...");
  const Shape* const shape = find_shape(given.words[0]);
  if (shape == nullptr) line.fail_usage(fmt::format("there is no command '{}'", given.words[0]));
  if (given.words.size() != shape->fields.size() + 1)
    line.fail_usage(fmt::format("{} takes {} names", shape->command, shape->fields.size()));
  Json request = {{"command", shape->command}};
  for (size_t i = 0; i < shape->fields.size(); ++i) request[shape->fields[i]] = given.words[i + 1];
  if (request.contains("image") && !given.image_opts &&
      image::protocol_of(request["image"].get<std::string>()).empty())
    request["image"] = seen_from_anywhere(request["image"].get<std::string>());
  if (given.format) request["format"] = *given.format;
  if (given.image_opts) request["image-opts"] = true;
  if (given.read_only) request["read-only"] = true;
  if (!given.bitmaps.empty()) request["bitmaps"] = given.bitmaps;
  if (given.description) request["description"] = *given.description;
  if (given.passphrase_file) request["passphrase-file"] = seen_from_anywhere(*given.passphrase_file);
  if (given.key_secret) request["key-secret"] = *given.key_secret;
  if (given.force) request["force"] = true;
  if (given.granularity) request["granularity"] = image::parse_size(*given.granularity, "granularity");
  return request;
}

OwnedFd connect_to(const std::string& path) {
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  if (path.empty() || path.size() >= sizeof address.sun_path)
    fail(ErrorKind::kInvalidArgument, "'{}': the path of a unix socket has 1 to {} bytes", path,
         sizeof address.sun_path - 1);
  std::memcpy(&address.sun_path[0], path.data(), path.size());
  OwnedFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) fail_errno(errno, "cannot make a socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    fail_errno(errno, "cannot reach a server at '{}'", path);
  return fd;
}

void send_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) fail_errno(errno, "cannot ask the server");
    text.remove_prefix(static_cast<size_t>(sent));
  }
}

std::string receive_line(int fd) {
  std::string line;
  char piece[4096];
  while (line.find('\n') == std::string::npos) {
    const ssize_t got = ::recv(fd, piece, sizeof piece, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno(errno, "the server does not answer");
    if (got == 0) fail(ErrorKind::kIo, "the server hung up without an answer");
    line.append(piece, static_cast<size_t>(got));
    if (line.size() > kMostAnswerBytes) fail(ErrorKind::kLimit, "the server's answer has no end");
  }
  return line.substr(0, line.find('\n'));
}

Json ask(const std::string& socket, const Json& request) {
  const OwnedFd fd = connect_to(socket);
  send_all(fd.get(), request.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  const Json answer = Json::parse(receive_line(fd.get()), nullptr, /*allow_exceptions=*/false);
  if (!answer.is_object() || !answer.contains("ok") || !answer["ok"].is_boolean())
    fail(ErrorKind::kIo, "'{}' does not answer as a server does", socket);
  return answer;
}

}  // namespace

int run_ctl(const Session& session, const std::vector<std::string>& arguments) {
  CtlArguments given;
  CommandLine line(session, "ctl", "[--socket PATH] COMMAND [EXPORT [IMAGE | NAME]]",
                   "Asks a running `cofre serve --control PATH`, or tells it what to do.");
  declare(line, given);
  line.parse(arguments);
  const bool json = parse_output_is_json(given.output);
  const Json request = make_request(line, given);
  const Json answer = ask(given.socket, request);
  if (json) fmt::print("{}\n", answer.dump(2, ' ', false, Json::error_handler_t::replace));
  if (answer["ok"].get<bool>()) {
    if (!json) fmt::print("{}", ctl_report(given.words[0], answer["result"]));
    return 0;
  }
  if (json) return 1;
  throw_error(ErrorKind::kIo, answer.value(Json::json_pointer("/error/message"), "the server refused"));
}

}  // namespace cofre::tool
