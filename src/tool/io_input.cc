#include "tool/io_input.h"

#include <fmt/format.h>
#include <histedit.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cwchar>

#include "io/reactor.h"
#include "tool/interrupt.h"

namespace cofre::tool {
namespace {

constexpr uint64_t kGlanceNs = 5'000'000;
constexpr int kLongWaitMs = 1000;  // a signal may come just before the wait begins

// Waits for standard input. False: a signal asks to stop. While something is in flight its lane must not
// stand still: then the input is looked at again and again.
io::task<bool> wait_for_input(const std::function<bool()>& busy) {
  while (!interrupted()) {
    pollfd input = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (::poll(&input, 1, busy() ? 0 : kLongWaitMs) > 0) co_return true;
    if (busy()) co_await io::sleep_ns(kGlanceNs);
  }
  co_return false;
}

class PlainInput final : public CommandInput {
 public:
  PlainInput(std::string prompt, std::function<bool()> busy)
      : prompt_(std::move(prompt)), busy_(std::move(busy)) {}

  io::task<std::optional<std::string>> next() override {
    fmt::print("{}", prompt_);
    std::fflush(stdout);
    size_t end = rest_.find('\n');
    while (end == std::string::npos) {
      if (!co_await wait_for_input(busy_)) co_return std::nullopt;
      if (!read_more()) {
        if (rest_.empty()) co_return std::nullopt;
        co_return std::exchange(rest_, {});
      }
      end = rest_.find('\n');
    }
    std::string line = rest_.substr(0, end);
    rest_.erase(0, end + 1);
    co_return line;
  }

 private:
  bool read_more() {
    std::array<char, 4096> piece = {};
    const ssize_t count = ::read(STDIN_FILENO, piece.data(), piece.size());
    if (count < 0) return errno == EINTR || errno == EAGAIN;
    rest_.append(piece.data(), static_cast<size_t>(count));
    return count > 0;
  }

  std::string prompt_;
  std::function<bool()> busy_;
  std::string rest_;  // read already
};

// libedit, whose functions are C: they find this through the client data.
class EditedInput final : public CommandInput {
 public:
  EditedInput(std::string prompt, std::function<bool()> busy, std::vector<std::string> completions)
      : prompt_(std::move(prompt)), busy_(std::move(busy)), completions_(std::move(completions)) {
    std::setlocale(LC_CTYPE, "");  // how the terminal writes what is not ASCII
    HistEvent event = {};
    history(history_.get(), &event, H_SETSIZE, kHistoryLines);
    history(history_.get(), &event, H_SETUNIQUE, 1);
    el_set(editor_.get(), EL_CLIENTDATA, this);
    el_set(editor_.get(), EL_PROMPT, &EditedInput::prompt_of);
    el_set(editor_.get(), EL_EDITOR, "emacs");
    el_set(editor_.get(), EL_HIST, history, history_.get());
    el_set(editor_.get(), EL_GETCFN, &EditedInput::get_character);
    // The narrow el_set() leaks copies of these two.
    el_wset(editor_.get(), EL_ADDFN, L"complete-command", L"completes a command's name",
            &EditedInput::complete);
    el_set(editor_.get(), EL_BIND, "^I", "complete-command", nullptr);
  }

  io::task<std::optional<std::string>> next() override {
    int length = 0;
    const char* const text = el_gets(editor_.get(), &length);
    if (text == nullptr || length <= 0 || interrupted()) {
      fmt::print("\n");
      co_return std::nullopt;
    }
    std::string line(text, static_cast<size_t>(length));
    while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
    HistEvent event = {};
    if (line.find_first_not_of(' ') != std::string::npos)
      history(history_.get(), &event, H_ENTER, line.c_str());
    co_return line;
  }

 private:
  static constexpr int kHistoryLines = 1000;

  static EditedInput& of(EditLine* editor) {
    void* self = nullptr;
    el_get(editor, EL_CLIENTDATA, &self);
    return *static_cast<EditedInput*>(self);
  }
  static char* prompt_of(EditLine* editor) { return of(editor).prompt_.data(); }

  // One character, perhaps of several bytes. What is in flight goes on meanwhile.
  static int get_character(EditLine* editor, wchar_t* into) {
    EditedInput& self = of(editor);
    std::mbstate_t state = {};
    while (true) {
      if (!io::Reactor::current()->run_until_done(wait_for_input(self.busy_))) return 0;
      char byte = 0;
      const ssize_t count = ::read(STDIN_FILENO, &byte, 1);
      if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (count <= 0) return 0;
      const size_t used = std::mbrtowc(into, &byte, 1, &state);
      if (used == static_cast<size_t>(-2)) continue;  // more bytes belong to it
      if (used == static_cast<size_t>(-1)) state = {};
      if (used != static_cast<size_t>(-1)) return 1;
    }
  }

  static unsigned char complete(EditLine* editor, int) {
    const LineInfo* const info = el_line(editor);
    const std::string_view word(info->buffer, static_cast<size_t>(info->cursor - info->buffer));
    const std::string* found = nullptr;
    for (const std::string& candidate : of(editor).completions_) {
      if (!candidate.starts_with(word)) continue;
      if (found != nullptr) return CC_REFRESH_BEEP;
      found = &candidate;
    }
    if (found == nullptr) return CC_REFRESH_BEEP;
    const std::string more = found->substr(word.size()) + " ";
    return el_insertstr(editor, more.c_str()) == 0 ? CC_REFRESH : CC_REFRESH_BEEP;
  }

  struct Ender {
    void operator()(EditLine* editor) const noexcept { el_end(editor); }
    void operator()(History* history) const noexcept { history_end(history); }
  };

  std::string prompt_;
  std::function<bool()> busy_;
  std::vector<std::string> completions_;
  std::unique_ptr<History, Ender> history_{history_init()};
  std::unique_ptr<EditLine, Ender> editor_{el_init("cofre", stdin, stdout, stderr)};
};

}  // namespace

std::unique_ptr<CommandInput> make_command_input(const std::string& prompt, std::function<bool()> busy,
                                                 std::vector<std::string> completions) {
  if (isatty(STDIN_FILENO) == 0 || isatty(STDOUT_FILENO) == 0)
    return std::make_unique<PlainInput>(prompt, std::move(busy));
  return std::make_unique<EditedInput>(prompt, std::move(busy), std::move(completions));
}

}  // namespace cofre::tool
