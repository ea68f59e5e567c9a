#include "image/secrets.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "base/error.h"

namespace cofre::image {
namespace {

using crypto::SecretBytes;

constexpr size_t kMasterKeyBytes = 32;
constexpr size_t kIvBytes = 16;

int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  return c == '/' ? 63 : -1;
}

bool is_space(char c) {
  return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

// `what` is for messages. Throws Error kInvalidArgument for what is no base64.
SecretBytes decode_base64(ConstBytes text, std::string_view what) {
  SecretBytes out(text.size() / 4 * 3 + 3);
  size_t length = 0;
  size_t digits = 0;
  size_t padding = 0;
  uint32_t group = 0;
  bool good = true;
  for (const std::byte byte : text) {
    const char c = static_cast<char>(byte);
    if (is_space(c)) continue;
    const int value = base64_value(c);
    good = good && (c == '=' ? ++padding <= 2 && digits % 4 + padding >= 3 : value >= 0 && padding == 0);
    if (c == '=' || !good) continue;
    group = group << 6 | static_cast<uint32_t>(value);
    if (++digits % 4 == 0) {
      for (int shift = 16; shift >= 0; shift -= 8)
        out.data()[length++] = static_cast<std::byte>(group >> shift);
    }
  }
  const size_t tail = digits % 4;
  if (!good || tail == 1 || (digits + padding) % 4 != 0)
    fail(ErrorKind::kInvalidArgument, "{} is not base64", what);
  if (tail >= 2) out.data()[length++] = static_cast<std::byte>(group >> (tail == 2 ? 4 : 10));
  if (tail == 3) out.data()[length++] = static_cast<std::byte>(group >> 2);
  group = 0;
  out.truncate(length);
  return out;
}

ConstBytes as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// AES-256-CBC with PKCS#7 padding.
SecretBytes decrypt(ConstBytes ciphertext, ConstBytes key, ConstBytes iv, std::string_view what) {
  const auto bytes = [](const std::byte* at) { return reinterpret_cast<const unsigned char*>(at); };
  const std::unique_ptr<EVP_CIPHER_CTX, decltype(&EVP_CIPHER_CTX_free)> context(EVP_CIPHER_CTX_new(),
                                                                                &EVP_CIPHER_CTX_free);
  SecretBytes plain(ciphertext.size() + kIvBytes);
  auto* const out = reinterpret_cast<unsigned char*>(plain.data());
  int head = 0;
  int tail = 0;
  if (!context ||
      EVP_DecryptInit_ex(context.get(), EVP_aes_256_cbc(), nullptr, bytes(key.data()), bytes(iv.data())) !=
          1 ||
      EVP_DecryptUpdate(context.get(), out, &head, bytes(ciphertext.data()),
                        static_cast<int>(ciphertext.size())) != 1 ||
      EVP_DecryptFinal_ex(context.get(), out + head, &tail) != 1)
    fail(ErrorKind::kWrongSecret, "{} does not decrypt with the secret that keyid names", what);
  plain.truncate(static_cast<size_t>(head + tail));
  return plain;
}

// The value as it was given, before decoding and decryption.
SecretBytes given_value(Options& properties, const std::string& id) {
  std::optional<std::string> data = properties.take("data");
  const std::optional<std::string> file = properties.take("file");
  if (data.has_value() == file.has_value())
    fail(ErrorKind::kInvalidArgument, "secret '{}' needs its value from one of file=PATH and data=TEXT", id);
  if (file) return read_secret_file(*file);
  SecretBytes value = SecretBytes::copy_of(as_bytes(*data));
  crypto::wipe(std::as_writable_bytes(std::span(data->data(), data->size())));
  return value;
}

bool take_is_base64(Options& properties, const std::string& id) {
  const std::string format = properties.take("format").value_or("raw");
  if (format != "raw" && format != "base64")
    fail(ErrorKind::kInvalidArgument, "secret '{}': format is raw or base64, not '{}'", id, format);
  return format == "base64";
}

}  // namespace

Options parse_object(std::string_view text) {
  try {
    return text.starts_with('{') ? Options::parse_json(text) : Options::parse_list(text, "qom-type");
  } catch (const Error& error) {
    throw Error(error.kind(),
                "an --object is neither a list of properties (secret,id=ID,file=PATH) nor a JSON object");
  }
}

SecretBytes read_secret_fd(int fd, const std::string& name) {
  SecretBytes value(4096);
  size_t length = 0;
  for (;;) {
    if (length == value.size()) {
      if (length >= kMaxSecretBytes)
        fail(ErrorKind::kLimit, "'{}' is longer than a secret may be ({} bytes)", name, kMaxSecretBytes);
      SecretBytes larger(value.size() * 4);
      std::memcpy(larger.data(), value.data(), length);
      value = std::move(larger);
    }
    const ssize_t got = ::read(fd, value.data() + length, value.size() - length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_errno(errno, "cannot read the secret from '{}'", name);
    if (got == 0) break;
    length += static_cast<size_t>(got);
  }
  value.truncate(length);
  return value;
}

SecretBytes read_secret_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY);
  if (fd < 0) fail_errno(errno, "cannot open the secret's file '{}'", path);
  const std::unique_ptr<const int, void (*)(const int*)> closer(&fd, [](const int* open) { ::close(*open); });
  return read_secret_fd(fd, path);
}

void strip_newline(SecretBytes& secret) noexcept {
  if (!secret.empty() && secret.data()[secret.size() - 1] == std::byte{'\n'})
    secret.truncate(secret.size() - 1);
}

void Secrets::add_object(std::string_view text) {
  Options properties = parse_object(text);
  const std::string type = properties.take("qom-type").value_or("");
  if (type != "secret" && !Objects::knows(type))
    fail(ErrorKind::kInvalidArgument,
         "--object '{}' is not known; there are secret, tls-creds-x509, tls-creds-psk and throttle-group",
         type);
  const std::optional<std::string> id = properties.take("id");
  if (!id || id->empty())
    fail(ErrorKind::kInvalidArgument, "--object {} needs an id: {},id=ID,...", type, type);
  if (type != "secret") {
    if (by_id_.contains(*id)) fail(ErrorKind::kExists, "there are two objects with the id '{}'", *id);
    return objects_.add(type, *id, std::move(properties));
  }
  const std::string what = fmt::format("secret '{}'", *id);

  const bool base64 = take_is_base64(properties, *id);
  const std::optional<std::string> key_id = properties.take("keyid");
  const std::optional<std::string> iv_text = properties.take("iv");
  SecretBytes value = given_value(properties, *id);
  properties.finish(what);
  if (key_id.has_value() != iv_text.has_value())
    fail(ErrorKind::kInvalidArgument, "{}: keyid and iv belong together", what);

  if (base64) value = decode_base64(value.bytes(), what);
  if (key_id) {
    const ConstBytes key = find(*key_id);
    const SecretBytes iv = decode_base64(as_bytes(*iv_text), what + ": iv");
    if (key.size() != kMasterKeyBytes)
      fail(ErrorKind::kInvalidArgument, "{}: the key '{}' has {} bytes, AES-256 takes {}", what, *key_id,
           key.size(), kMasterKeyBytes);
    if (iv.size() != kIvBytes)
      fail(ErrorKind::kInvalidArgument, "{}: iv has {} bytes, AES takes {}", what, iv.size(), kIvBytes);
    value = decrypt(value.bytes(), key, iv.bytes(), what);
  }
  add(*id, std::move(value));
}

void Secrets::add(std::string id, SecretBytes value) {
  if (by_id_.contains(id) || objects_.has(id))
    fail(ErrorKind::kExists, "there are two objects with the id '{}'", id);
  by_id_.emplace(std::move(id), std::move(value));
}

ConstBytes Secrets::find(std::string_view id) const {
  const auto found = by_id_.find(id);
  if (found == by_id_.end())
    fail(ErrorKind::kMissingSecret, "no secret with id '{}': give it with --object secret,id={},file=PATH",
         id, id);
  return found->second.bytes();
}

ConstBytes Secrets::for_image(const std::string& image, bool creating) {
  if (default_) {
    if (creating && default_->empty())
      fail(ErrorKind::kInvalidArgument,
           "'{}' is to be encrypted with an empty passphrase, which protects nothing", image);
    return default_->bytes();
  }
  if (const auto found = asked_.find(image); found != asked_.end()) return found->second.bytes();
  std::optional<SecretBytes> answer = prompt_ ? prompt_(image, creating) : std::nullopt;
  if (!answer)
    fail(ErrorKind::kMissingSecret,
         "'{}' {} encrypted: give its passphrase with --passphrase-file FILE, --passphrase-fd N or --object "
         "secret,id=ID,file=FILE and the image's key-secret=ID",
         image, creating ? "is to be" : "is");
  asked_last_ = image;
  return asked_.emplace(image, std::move(*answer)).first->second.bytes();
}

std::optional<ConstBytes> Secrets::likely_answer(const std::string& image) const {
  if (default_ || asked_.contains(image)) return std::nullopt;
  if (!asked_.empty()) return asked_.find(asked_last_)->second.bytes();
  if (!chosen_last_.empty()) return find(chosen_last_);
  return std::nullopt;
}

ConstBytes Secrets::choose(const std::optional<std::string>& id, const std::string& image, bool creating) {
  if (!id) return for_image(image, creating);
  try {
    const ConstBytes chosen = find(*id);
    chosen_last_ = *id;
    return chosen;
  } catch (const Error& error) {
    throw error.with_context(fmt::format("'{}'", image));
  }
}

}  // namespace cofre::image
