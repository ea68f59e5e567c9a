#include "tool/nbd_list.h"

#include <fmt/format.h>
#include <libnbd.h>

#include <array>
#include <cerrno>
#include <vector>

#include "base/error.h"

namespace cofre::tool {
namespace {

struct CloseHandle {
  void operator()(nbd_handle* handle) const noexcept { nbd_close(handle); }
};
using Handle = std::unique_ptr<nbd_handle, CloseHandle>;

[[noreturn]] void fail_nbd(const char* what) {
  const char* const text = nbd_get_error();
  throw Error(kind_of_errno(nbd_get_errno()), fmt::format("{}: {}", what, text != nullptr ? text : "unknown"),
              nbd_get_errno());
}

void require(int result, const char* what) {
  if (result < 0) fail_nbd(what);
}

void apply_tls(nbd_handle* handle, const storage::NbdTls& tls) {
  require(nbd_set_tls(handle, LIBNBD_TLS_REQUIRE), "TLS");
  if (!tls.x509_folder.empty()) {
    require(nbd_set_tls_certificates(handle, tls.x509_folder.c_str()), "TLS");
    require(nbd_set_tls_verify_peer(handle, tls.verify_peer), "TLS");
  } else {
    require(nbd_set_tls_psk_file(handle, tls.psk_file.c_str()), "TLS");
    require(nbd_set_tls_username(handle, tls.psk_username.c_str()), "TLS");
  }
}

Handle connect(const NbdListAddress& address, const std::optional<storage::NbdTls>& tls) {
  Handle handle(nbd_create());
  if (!handle) fail_nbd("libnbd");
  require(nbd_set_opt_mode(handle.get(), true), "libnbd");
  require(nbd_set_full_info(handle.get(), true), "libnbd");
  if (tls) apply_tls(handle.get(), *tls);
  const int connected = address.unix_path.empty()
                            ? nbd_connect_tcp(handle.get(), address.host.c_str(), address.port.c_str())
                            : nbd_connect_unix(handle.get(), address.unix_path.c_str());
  require(connected, "Failed to connect");
  return handle;
}

using Names = std::vector<std::string>;

// libnbd calls these from C: nothing may be thrown through it.
int add_export(void* names, const char* name, const char*) noexcept {
  static_cast<Names*>(names)->emplace_back(name);
  return 0;
}
int add_context(void* names, const char* name) noexcept {
  static_cast<Names*>(names)->emplace_back(name);
  return 0;
}

struct FlagName {
  int (*can)(nbd_handle*);
  uint16_t bit;
  const char* name;
};
constexpr auto kFlags = std::to_array<FlagName>({{nbd_is_read_only, 1, "readonly"},
                                                 {nbd_can_flush, 2, "flush"},
                                                 {nbd_can_fua, 3, "fua"},
                                                 {nbd_is_rotational, 4, "rotational"},
                                                 {nbd_can_trim, 5, "trim"},
                                                 {nbd_can_zero, 6, "zeroes"},
                                                 {nbd_can_df, 7, "df"},
                                                 {nbd_can_multi_conn, 8, "multi"},
                                                 {nbd_can_cache, 10, "cache"},
                                                 {nbd_can_fast_zero, 11, "fast-zero"}});

void print_flags(nbd_handle* handle) {
  unsigned bits = 1;  // there are flags
  std::string names;
  for (const FlagName& flag : kFlags) {
    if (flag.can(handle) <= 0) continue;
    bits |= 1u << flag.bit;
    names += fmt::format(" {}", flag.name);
  }
  fmt::print("  flags: 0x{:x} ({} )\n", bits, names);
}

void print_block_sizes(nbd_handle* handle) {
  const int64_t least = nbd_get_block_size(handle, LIBNBD_SIZE_MINIMUM);
  if (least <= 0) return;
  fmt::print("  min block: {}\n  opt block: {}\n  max block: {}\n", least,
             nbd_get_block_size(handle, LIBNBD_SIZE_PREFERRED),
             nbd_get_block_size(handle, LIBNBD_SIZE_MAXIMUM));
}

void print_contexts(nbd_handle* handle) {
  Names contexts;
  const nbd_context_callback callback = {.callback = add_context, .user_data = &contexts, .free = nullptr};
  if (nbd_opt_list_meta_context(handle, callback) < 0 || contexts.empty()) return;
  fmt::print("  available meta contexts: {}\n", contexts.size());
  for (const std::string& name : contexts) fmt::print("   {}\n", name);
}

void print_export(nbd_handle* handle, const std::string& name) {
  fmt::print(" export: '{}'\n", name);
  require(nbd_set_export_name(handle, name.c_str()), "libnbd");
  if (nbd_opt_info(handle) < 0) return;
  char* const description = nbd_get_export_description(handle);
  if (description != nullptr && *description != '\0') fmt::print("  description: {}\n", description);
  std::free(description);
  fmt::print("  size:  {}\n", nbd_get_size(handle));
  print_flags(handle);
  print_block_sizes(handle);
  print_contexts(handle);
}

}  // namespace

void print_nbd_list(const NbdListAddress& address, const std::optional<storage::NbdTls>& tls) {
  const Handle handle = connect(address, tls);
  Names names;
  const nbd_list_callback callback = {.callback = add_export, .user_data = &names, .free = nullptr};
  require(nbd_opt_list(handle.get(), callback), "Failed to list the exports");
  fmt::print("exports available: {}\n", names.size());
  for (const std::string& name : names) print_export(handle.get(), name);
  nbd_opt_abort(handle.get());
}

}  // namespace cofre::tool
