// The passphrases of a run: those given as --object secret,..., and the one for images that name no secret;
// and beside them the other objects of --object (objects.h).
//
// A value rests in SecretBytes from the first read on and never enters a message. Belongs to one thread.
//
// Secret objects (QEMU's properties):
//   id=NAME                   what images refer to with key-secret=NAME
//   file=PATH or data=TEXT    the value; of a file every byte counts, a trailing newline too
//   format=raw|base64         how the value is written; base64 may hold white space
//   keyid=NAME,iv=BASE64      the value is AES-256-CBC encrypted (PKCS#7 padding) with the 32 bytes of secret
//   NAME, and
//                             written in base64 when format=base64
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "crypto/secret.h"
#include "image/objects.h"
#include "image/options.h"

namespace cofre::image {

// The properties of an --object, as a list or as a JSON object; its type is "qom-type". The text may hold a
// secret: what this throws does not repeat it.
Options parse_object(std::string_view text);

class Secrets {
 public:
  // Asks the user for the passphrase of `image`; `creating`: of a new image (ask twice). Nothing: nobody to
  // ask.
  using Prompt = std::function<std::optional<crypto::SecretBytes>(const std::string& image, bool creating)>;

  // "secret,id=...,..." or another object, or the same as a JSON object. Throws Error kInvalidArgument for
  // other objects and bad properties; kExists for an id given twice; what reading the file throws. `text` may
  // hold the secret itself (data=): never repeat it in messages.
  void add_object(std::string_view text);
  void add(std::string id, crypto::SecretBytes value);
  const Objects& objects() const noexcept { return objects_; }
  // The passphrase of every image that names no secret.
  void set_default(crypto::SecretBytes value) { default_ = std::move(value); }
  void set_prompt(Prompt prompt) { prompt_ = std::move(prompt); }

  // Throws Error kMissingSecret naming the id. The view lives as long as this.
  ConstBytes find(std::string_view id) const;
  // The passphrase for an image that names none: the default, or the answer of the prompt, asked once an
  // image. Throws Error kMissingSecret that names the image and the ways to give a passphrase.
  ConstBytes for_image(const std::string& image, bool creating = false);
  // What an image before this one, above it in a chain or of the same command, was opened with, which is
  // often the same: the answer that the prompt gave last, else the secret that was chosen last by its id.
  // Nothing where there is neither, or `image` has a passphrase by itself.
  std::optional<ConstBytes> likely_answer(const std::string& image) const;
  // find(*id), naming the image when there is none, or for_image() without an id.
  ConstBytes choose(const std::optional<std::string>& id, const std::string& image, bool creating = false);

 private:
  std::map<std::string, crypto::SecretBytes, std::less<>> by_id_;
  std::map<std::string, crypto::SecretBytes, std::less<>> asked_;
  std::string asked_last_;   // a key of asked_, if that is not empty
  std::string chosen_last_;  // a key of by_id_, if it is not empty
  std::optional<crypto::SecretBytes> default_;
  Objects objects_;
  Prompt prompt_;
};

// The most bytes a secret may have.
inline constexpr size_t kMaxSecretBytes = 1024 * 1024;

// The whole file. Throws Error.
crypto::SecretBytes read_secret_file(const std::string& path);
// Up to the end of the stream; `name` is for messages.
crypto::SecretBytes read_secret_fd(int fd, const std::string& name);
// Drops one newline at the end (as editors and echo leave), if there is one.
void strip_newline(crypto::SecretBytes& secret) noexcept;

}  // namespace cofre::image
