// What every command knows of the run: under which name and personality it was started.
#pragma once

#include <string>
#include <vector>

namespace cofre::tool {

enum class Personality { kCofre, kQemuImg, kQemuIo, kQemuNbd };

struct Session {
  Personality personality = Personality::kCofre;
  std::string program = "cofre";  // as messages begin

  bool is_cofre() const noexcept { return personality == Personality::kCofre; }
};

// Gives the exit status. Throws Error, UsageError.
using CommandFunction = int (*)(const Session& session, const std::vector<std::string>& arguments);

int run_create(const Session& session, const std::vector<std::string>& arguments);
int run_convert(const Session& session, const std::vector<std::string>& arguments);
int run_info(const Session& session, const std::vector<std::string>& arguments);
int run_audit(const Session& session, const std::vector<std::string>& arguments);
int run_check(const Session& session, const std::vector<std::string>& arguments);
int run_compare(const Session& session, const std::vector<std::string>& arguments);
int run_amend(const Session& session, const std::vector<std::string>& arguments);
int run_rebase(const Session& session, const std::vector<std::string>& arguments);
int run_commit(const Session& session, const std::vector<std::string>& arguments);
int run_bitmap(const Session& session, const std::vector<std::string>& arguments);
int run_snapshot(const Session& session, const std::vector<std::string>& arguments);
int run_dd(const Session& session, const std::vector<std::string>& arguments);
int run_measure(const Session& session, const std::vector<std::string>& arguments);
int run_resize(const Session& session, const std::vector<std::string>& arguments);
int run_map(const Session& session, const std::vector<std::string>& arguments);
int run_doctor(const Session& session, const std::vector<std::string>& arguments);
int run_ctl(const Session& session, const std::vector<std::string>& arguments);
int run_serve(const Session& session, const std::vector<std::string>& arguments);
int run_qemu_nbd(const Session& session, const std::vector<std::string>& arguments);
int run_io(const Session& session, const std::vector<std::string>& arguments);
int run_bench(const Session& session, const std::vector<std::string>& arguments);
int run_witness(const Session& session, const std::vector<std::string>& arguments);

// What `bench` measures: commands of their own.
int run_bench_crypto(const Session& session, const std::vector<std::string>& arguments);
int run_bench_requests(const Session& session, const std::vector<std::string>& arguments);
int run_bench_image(const Session& session, const std::vector<std::string>& arguments);

}  // namespace cofre::tool
