// A connection under TLS.
#include <openssl/err.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/aligned_buffer.h"
#include "export/nbd/tls.h"
#include "io/sync.h"

namespace cofre::nbd {
namespace {

constexpr size_t kRecordBytes = 16 * 1024;       // the most one record of TLS carries
constexpr size_t kCiphertextBytes = 64 * 1024;   // received at once
constexpr size_t kMostUnsentBytes = 128 * 1024;  // encrypted before it is sent
constexpr uint64_t kFarewellNs = 1'000'000'000;

struct FreeSsl {
  void operator()(SSL* ssl) const noexcept { SSL_free(ssl); }
};

// The SSL object reads from and writes to memory; nothing of it waits.
class TlsChannel final : public Channel {
 public:
  TlsChannel(const TlsCredentials& credentials, std::unique_ptr<Channel> inner)
      : inner_(std::move(inner)),
        ssl_(SSL_new(credentials.context())),
        ciphertext_(kCiphertextBytes),
        record_(kRecordBytes) {
    BIO* const from_peer = BIO_new(BIO_s_mem());
    BIO* const to_peer = BIO_new(BIO_s_mem());
    if (!ssl_ || from_peer == nullptr || to_peer == nullptr) {
      BIO_free(from_peer);
      BIO_free(to_peer);
      throw std::bad_alloc();
    }
    SSL_set_bio(ssl_.get(), from_peer, to_peer);
    SSL_set_accept_state(ssl_.get());
  }

  SSL* ssl() noexcept { return ssl_.get(); }
  bool is_secure() const noexcept override { return true; }
  void stop_receiving() override { inner_->stop_receiving(); }

  // 0, or -errno; -EPROTO: OpenSSL says no.
  io::task<int64_t> shake_hands(io::Deadline deadline) {
    while (true) {
      ERR_clear_error();
      const int result = SSL_do_handshake(ssl_.get());
      const int error = SSL_get_error(ssl_.get(), result);
      const int64_t sent = co_await send_ciphertext(deadline);  // an alert, too
      if (result == 1) co_return sent;
      if (error != SSL_ERROR_WANT_READ) co_return -EPROTO;
      if (sent < 0) co_return sent;
      const int64_t got = co_await receive_ciphertext(deadline);
      if (got <= 0) co_return got < 0 ? got : -ECONNRESET;
    }
  }

  io::task<int64_t> receive(Bytes into, io::Deadline deadline) override {
    while (true) {
      const int64_t result = decrypt(into);
      if (result != -EAGAIN) co_return result;
      const int64_t sent = co_await send_ciphertext(deadline);  // what the protocol itself wants to say
      if (sent < 0) co_return sent;
      const int64_t got = co_await receive_ciphertext(deadline);
      if (got <= 0) co_return got;
    }
  }

  int64_t receive_now(Bytes into) override {
    while (true) {
      const int64_t result = decrypt(into);
      if (result != -EAGAIN) return result;
      const int64_t got = inner_->receive_now(ciphertext_.bytes());
      if (got <= 0) return got;
      BIO_write(SSL_get_rbio(ssl_.get()), ciphertext_.data(), static_cast<int>(got));
    }
  }

  // Small pieces share a record.
  io::task<int64_t> send(std::span<iovec> pieces, io::Deadline deadline) override {
    size_t gathered = 0;
    for (const iovec& piece : pieces) {
      ConstBytes rest(static_cast<const std::byte*>(piece.iov_base), piece.iov_len);
      while (!rest.empty()) {
        const size_t count = std::min(rest.size(), kRecordBytes - gathered);
        std::memcpy(record_.data() + gathered, rest.data(), count);
        rest = rest.subspan(count);
        gathered += count;
        if (gathered < kRecordBytes) continue;
        if (!encrypt(std::exchange(gathered, 0))) co_return -EPROTO;
        if (BIO_pending(SSL_get_wbio(ssl_.get())) < static_cast<int>(kMostUnsentBytes)) continue;
        const int64_t sent = co_await send_ciphertext(deadline);
        if (sent < 0) co_return sent;
      }
    }
    if (gathered > 0 && !encrypt(gathered)) co_return -EPROTO;
    co_return co_await send_ciphertext(deadline);
  }

  io::task<void> finish() override {
    ERR_clear_error();
    SSL_shutdown(ssl_.get());
    co_await send_ciphertext(io::Deadline::after_ns(kFarewellNs));
  }

 private:
  // Bytes, 0 at the orderly end, -EAGAIN: more ciphertext is needed.
  int64_t decrypt(Bytes into) {
    ERR_clear_error();
    size_t count = 0;
    const int result = SSL_read_ex(ssl_.get(), into.data(), into.size(), &count);
    if (result == 1) return static_cast<int64_t>(count);
    switch (SSL_get_error(ssl_.get(), result)) {
      case SSL_ERROR_WANT_READ:
        return -EAGAIN;
      case SSL_ERROR_ZERO_RETURN:
        return 0;
      default:
        return -EPROTO;
    }
  }

  bool encrypt(size_t count) {
    ERR_clear_error();
    size_t written = 0;
    return SSL_write_ex(ssl_.get(), record_.data(), count, &written) == 1 && written == count;
  }

  io::task<int64_t> receive_ciphertext(io::Deadline deadline) {
    const int64_t got = co_await inner_->receive(ciphertext_.bytes(), deadline);
    if (got > 0) BIO_write(SSL_get_rbio(ssl_.get()), ciphertext_.data(), static_cast<int>(got));
    co_return got;
  }

  // The receiver and the sender both come here: one after the other, so that records stay in order.
  io::task<int64_t> send_ciphertext(io::Deadline deadline) {
    if (BIO_pending(SSL_get_wbio(ssl_.get())) == 0) co_return 0;
    const io::Mutex::Guard guard = co_await sending_.lock();
    while (const int pending = BIO_pending(SSL_get_wbio(ssl_.get()))) {
      unsent_.resize(static_cast<size_t>(pending));
      const int taken = BIO_read(SSL_get_wbio(ssl_.get()), unsent_.data(), pending);
      if (taken <= 0) co_return -EPROTO;
      std::array<iovec, 1> piece = {{{unsent_.data(), static_cast<size_t>(taken)}}};
      const int64_t sent = co_await inner_->send(piece, deadline);
      if (sent < 0) co_return sent;
    }
    co_return 0;
  }

  std::unique_ptr<Channel> inner_;
  std::unique_ptr<SSL, FreeSsl> ssl_;
  AlignedBuffer ciphertext_;
  AlignedBuffer record_;  // plain, about to be encrypted
  std::vector<std::byte> unsent_;
  io::Mutex sending_;
};

std::string handshake_fault(int64_t result) {
  const unsigned long code = ERR_get_error();
  const char* const reason = code != 0 ? ERR_reason_error_string(code) : nullptr;
  ERR_clear_error();
  if (result == -EPROTO && reason != nullptr) return reason;
  return result == -ETIME ? "the client took too long" : std::strerror(static_cast<int>(-result));
}

}  // namespace

io::task<TlsOutcome> accept_tls(const TlsCredentials& credentials, std::unique_ptr<Channel> inner,
                                io::Deadline deadline) {
  auto channel = std::make_unique<TlsChannel>(credentials, std::move(inner));
  const int64_t result = co_await channel->shake_hands(deadline);
  if (result < 0) co_return TlsOutcome{.channel = nullptr, .fault = handshake_fault(result)};
  std::string objection = credentials.objection_to(channel->ssl());
  if (!objection.empty()) co_return TlsOutcome{.channel = nullptr, .fault = std::move(objection)};
  co_return TlsOutcome{.channel = std::move(channel), .fault = {}};
}

}  // namespace cofre::nbd
