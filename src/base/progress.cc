#include "base/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>
#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/units.h"

namespace nanoflow {
namespace {

constexpr int kDefaultColumns = 80;
constexpr int kBarColumns = 20;
constexpr int64_t kRedrawNs = 100'000'000;   // a terminal: ten times a second
constexpr int64_t kLineNs = 10'000'000'000;  // elsewhere: a line every ten seconds

int terminal_columns(std::FILE* out) {
  struct winsize size {};
  if (::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kDefaultColumns;
}

}  // namespace

std::string format_duration(double seconds) {
  const auto total = static_cast<int64_t>(std::max(0.0, seconds));
  const int64_t hours = total / 3600;
  const std::string rest = fmt::format("{:02}:{:02}", total / 60 % 60, total % 60);
  return hours > 0 ? fmt::format("{}:{}", hours, rest) : rest;
}

const Clock& ProgressBar::steady_clock() {
  static const SteadyClock clock;  // stateless
  return clock;
}

ProgressBar::ProgressBar(std::string label, int64_t total, Unit unit, std::FILE* out,
                         const Clock& clock)
    : label_(std::move(label)),
      total_(total),
      unit_(unit),
      out_(out),
      clock_(clock),
      terminal_(::isatty(::fileno(out)) != 0),
      start_ns_(clock.now_ns()),
      drawn_ns_(start_ns_) {}

ProgressBar::~ProgressBar() {
  finish();
}

void ProgressBar::set(int64_t done) {
  const std::lock_guard lock(mutex_);
  done_ = done;
  if (begin_ < 0) begin_ = done;
  draw(false);
}

void ProgressBar::set_total(int64_t total) {
  const std::lock_guard lock(mutex_);
  total_ = total;
}

void ProgressBar::print_above(const std::function<void()>& print) {
  const std::lock_guard lock(mutex_);
  clear();
  print();
  if (terminal_ && !finished_) draw(true);
}

void ProgressBar::finish() {
  const std::lock_guard lock(mutex_);
  if (finished_) return;
  draw(true);
  if (terminal_) std::fputc('\n', out_);
  std::fflush(out_);
  finished_ = true;
  on_screen_ = false;
}

std::string ProgressBar::line(int columns) const {
  const std::lock_guard lock(mutex_);
  return render(columns);
}

void ProgressBar::draw(bool force) {
  const int64_t now_ns = clock_.now_ns();
  if (finished_ || (!force && now_ns - drawn_ns_ < (terminal_ ? kRedrawNs : kLineNs))) return;
  drawn_ns_ = now_ns;
  if (terminal_) {
    clear();
    const std::string text = render(terminal_columns(out_) - 1);
    std::fwrite(text.data(), 1, text.size(), out_);
    on_screen_ = true;
  } else {
    const std::string text = render(kDefaultColumns) + "\n";
    std::fwrite(text.data(), 1, text.size(), out_);
  }
  std::fflush(out_);
}

void ProgressBar::clear() {
  if (!on_screen_) return;
  std::fputs("\r\x1b[K", out_);
  std::fflush(out_);
  on_screen_ = false;
}

std::string ProgressBar::render(int columns) const {
  const double elapsed_s = static_cast<double>(clock_.now_ns() - start_ns_) * 1e-9;
  const double rate =
      elapsed_s > 0 ? static_cast<double>(done_ - std::max<int64_t>(begin_, 0)) / elapsed_s : 0;
  const auto amount = [&](double value) {
    return unit_ == Unit::kBytes ? format_bytes(value) : fmt::format("{:.0f}", value);
  };
  std::string text = label_ + "  ";
  if (total_ > 0) {
    const double share =
        std::clamp(static_cast<double>(done_) / static_cast<double>(total_), 0.0, 1.0);
    const auto filled = static_cast<size_t>(share * kBarColumns);
    text += fmt::format("[{}{}] {:3.0f} %  {}/{}", std::string(filled, '#'),
                        std::string(kBarColumns - filled, '.'), share * 100,
                        amount(static_cast<double>(done_)), amount(static_cast<double>(total_)));
  } else {
    text += amount(static_cast<double>(done_));
  }
  if (unit_ == Unit::kBytes) {
    text += fmt::format("  {}/s", format_bytes(rate));
  } else {
    text += fmt::format("  {:.1f}/s", rate);
  }
  if (total_ > done_ && rate > 0)
    text += fmt::format("  ETA {}", format_duration(static_cast<double>(total_ - done_) / rate));
  if (static_cast<int>(text.size()) > columns)
    text.resize(static_cast<size_t>(std::max(0, columns)));
  return text;
}

}  // namespace nanoflow
