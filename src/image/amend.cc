#include "image/amend.h"

#include <algorithm>

#include "base/error.h"
#include "format/qcow2/amend.h"

namespace cofre::image {
namespace {

// An image open for changes, with its LUKS volume if it has one.
struct Subject {
  std::optional<luks::Luks1Volume> volume;
  OpenedImage image;

  const Layer& top() const { return image.top(); }
};

io::task<void> open_subject(Subject& subject, ImageName name, CacheMode cache, bool with_backing,
                            Secrets& secrets) {
  subject.image = co_await open_image(std::move(name), {.writable = true,
                                                        .no_backing = !with_backing,
                                                        .exclusive = true,
                                                        .cache = cache,
                                                        .secrets = &secrets,
                                                        .unlocked = &subject.volume});
}

luks::Luks1Keyslots keyslots_of(Subject& subject) {
  const Layer& top = subject.top();
  if (top.luks != nullptr) return {top.luks->header_storage(), 0, *subject.volume};
  return {top.qcow2->file(), top.qcow2->header().crypt_header.value().offset, *subject.volume};
}

void require_luks(const Subject& subject) {
  if (subject.volume) return;
  const Layer& top = subject.top();
  const bool aes = top.qcow2 != nullptr && top.qcow2->header().crypt_method == qcow2::CryptMethod::kAes;
  if (aes)
    fail(ErrorKind::kUnsupported,
         "'{}' is encrypted with the legacy format 'aes', whose key is the passphrase itself: convert it to "
         "encrypt.format=luks",
         top.path);
  fail(ErrorKind::kUnsupported, "'{}' is not encrypted", top.path);
}

luks::KeyslotAmendment amendment_of(const KeyslotSettings& settings, bool force, const Secrets& secrets) {
  luks::KeyslotAmendment amendment{.activate = settings.activate,
                                   .keyslot = settings.keyslot,
                                   .iter_time = settings.iter_time,
                                   .force = force};
  if (settings.new_secret) amendment.new_passphrase = secrets.find(*settings.new_secret);
  if (settings.old_secret) amendment.old_passphrase = secrets.find(*settings.old_secret);
  luks::validate(amendment);
  return amendment;
}

io::task<void> amend_keyslot(Subject& subject, const luks::KeyslotAmendment& amendment) {
  try {
    co_await luks::amend_keyslots(keyslots_of(subject), amendment);
  } catch (const Error& error) {
    throw error.with_context(fmt::format("'{}'", subject.top().path));
  }
}

qcow2::AmendOptions qcow2_options(const AmendSettings& settings) {
  return {.version = settings.version,
          .size_bytes = settings.size_bytes,
          .lazy_refcounts = settings.lazy_refcounts,
          .refcount_order = settings.refcount_order,
          .data_file = settings.data_file,
          .data_file_raw = settings.data_file_raw,
          .backing_file = settings.backing_file,
          .backing_format = settings.backing_format};
}

// Growing shows zeros where a longer backing file would show through, and version 2 has no zero clusters:
// only these look at the layers below.
bool needs_backing(const Options& options) {
  return options.has("size") || options.has("compat");
}

io::task<void> amend_subject(Subject& subject, const AmendSettings& settings, const AmendRequest& request,
                             const Secrets& secrets) {
  std::optional<luks::KeyslotAmendment> keyslot;
  if (settings.keyslot) {
    require_luks(subject);
    keyslot = amendment_of(*settings.keyslot, request.force, secrets);
  }
  qcow2::Image* const qcow2 = subject.top().qcow2;
  const qcow2::AmendOptions options = qcow2_options(settings);
  if (qcow2 != nullptr) qcow2::validate_amendment(*qcow2, options);
  if (keyslot) co_await amend_keyslot(subject, *keyslot);
  if (qcow2 != nullptr)
    co_await qcow2::amend(*qcow2, options,
                          {.progress = request.control.progress, .cancelled = request.control.cancelled});
}

}  // namespace

io::task<void> amend_image(AmendRequest request, Secrets& secrets) {
  if (request.name.format) parse_amend_options(*request.name.format, request.options);
  Subject subject;
  co_await open_subject(subject, request.name, request.cache, needs_backing(request.options), secrets);
  const AmendSettings settings = parse_amend_options(subject.top().format, request.options);
  co_await amend_subject(subject, settings, request, secrets);
  co_await subject.image.close();
}

io::task<PassphraseOutcome> change_passphrase(PassphraseRequest request, Secrets& secrets) {
  Subject subject;
  co_await open_subject(subject, request.name, request.cache, /*with_backing=*/false, secrets);
  require_luks(subject);
  const std::string path = subject.top().path;
  const ConstBytes present = secrets.choose(subject.top().key_secret, path);
  luks::Luks1Keyslots keyslots = keyslots_of(subject);
  PassphraseOutcome outcome;
  const auto before = subject.volume->header.keyslots;
  try {
    if (request.change == PassphraseChange::kRemove) {
      co_await luks::amend_keyslots(keyslots, {.old_passphrase = present, .force = request.force});
    } else {
      const crypto::SecretBytes fresh = request.new_passphrase(path);
      if (request.change == PassphraseChange::kReplace) {
        outcome.added = co_await luks::replace_passphrase(keyslots, present, fresh.bytes(), request.cost);
      } else {
        outcome.added = co_await luks::add_passphrase(keyslots, fresh.bytes(), request.cost);
      }
    }
  } catch (const Error& error) {
    throw error.with_context(fmt::format("'{}'", path));
  }
  for (size_t i = 0; i < luks::kLuks1Keyslots; ++i)
    if (before[i].active && !keyslots[i].active) outcome.erased.push_back(i);
  co_await subject.image.close();
  co_return outcome;
}

}  // namespace cofre::image
