#include "formats/hub_transfer.h"

#include <algorithm>
#include <charconv>
#include <system_error>
#include <thread>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/error.h"
#include "base/units.h"
#include "formats/hub_checksum.h"

namespace nanoflow {
namespace {

constexpr int kMaxRenewals = 3;  // of a signed URL within one part

/// "bytes 100-199/1000": the first byte and the total (-1 for "*"); nullopt when malformed.
std::optional<std::pair<int64_t, int64_t>> parse_content_range(std::string_view text) {
  if (!text.starts_with("bytes ")) return std::nullopt;
  text.remove_prefix(6);
  int64_t first = 0, total = -1;
  const char* const end = text.data() + text.size();
  const auto [after, error] = std::from_chars(text.data(), end, first);
  const size_t slash = text.find('/');
  if (error != std::errc() || after == end || *after != '-' || slash == std::string_view::npos)
    return std::nullopt;
  const std::string_view last = text.substr(slash + 1);
  if (last != "*" &&
      std::from_chars(last.data(), last.data() + last.size(), total).ec != std::errc())
    return std::nullopt;
  return std::pair{first, total};
}

/// What an expired or wrong signature answers with.
bool looks_expired(int status) {
  return status == 400 || status == 401 || status == 403 || status == 404 || status == 410;
}

}  // namespace

struct HubTransfer::File {
  HubFile entry;
  ResolvedFile at;
  std::optional<FileLock> lock;
  std::unique_ptr<PartFile> parts;
  int failed_checks = 0;
  std::mutex url_mutex;     // guards at.url, which one thread renews for all, and served_etag
  std::string served_etag;  // of the first answer with content, which a CDN may name otherwise
  // Guarded by HubTransfer::mutex_.
  std::deque<size_t> pending;  // parts nobody fetches yet
  int busy = 0;                // parts being fetched
  bool single = false;         // the server knows no ranges: one part, one connection
  bool range_ignored = false;  // become single when the last part in flight is back
};

struct HubTransfer::Task {
  File* file;
  std::optional<size_t> part;  // without one: open the file
};

HubTransfer::HubTransfer(Job job, TransferMeter& meter) : job_(std::move(job)), meter_(meter) {
  for (const HubFile& entry : job_.files) {
    files_.push_back(std::make_unique<File>());
    files_.back()->entry = entry;
  }
}

HubTransfer::~HubTransfer() = default;

bool HubTransfer::stopped() const {
  return stop_ || (job_.cancel != nullptr && *job_.cancel);
}

void HubTransfer::run() {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(job_.settings.connections));
  for (int i = 0; i < job_.settings.connections; ++i) threads.emplace_back([this] { work(); });
  for (std::thread& thread : threads) thread.join();
  if (job_.cancel != nullptr && *job_.cancel && num_done_ < files_.size()) throw_interrupted();
  if (error_) std::rethrow_exception(error_);
}

void HubTransfer::work() {
  try {
    HttpSession session(job_.remote.session_options([this] { return stopped(); }));
    while (const std::optional<Task> task = next_task()) {
      if (task->part.has_value()) {
        fetch(session, *task->file, *task->part);
      } else {
        open(session, *task->file);
      }
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::current_exception();
    stop_ = true;
  }
  changed_.notify_all();
}

std::optional<HubTransfer::Task> HubTransfer::next_task() {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (stopped() || num_done_ == files_.size()) return std::nullopt;
    for (const std::unique_ptr<File>& file : files_) {
      if (file->pending.empty() || file->range_ignored) continue;
      const size_t part = file->pending.front();
      file->pending.pop_front();
      ++file->busy;
      return Task{.file = file.get(), .part = part};
    }
    if (next_unopened_ < files_.size())
      return Task{.file = files_[next_unopened_++].get(), .part = std::nullopt};
    changed_.wait_for(lock, std::chrono::milliseconds(100));  // a cancel wakes nobody
  }
}

void HubTransfer::open(HttpSession& session, File& file) {
  const auto cancelled = [this] { return stopped(); };
  file.at = job_.remote.resolve(session, job_.commit, file.entry.name, cancelled);
  HubFile& entry = file.entry;
  if (entry.size < 0) entry.size = file.at.size;
  const std::string& etag = file.at.etag;
  const bool other_content =
      (!entry.sha256.empty() && is_hex(etag, 64) && etag != entry.sha256) ||
      (!entry.git_sha1.empty() && is_hex(etag, 40) && etag != entry.git_sha1);
  if (entry.size < 0 || (file.at.size >= 0 && file.at.size != entry.size) || other_content)
    throw NetworkError(fmt::format(
        "{} of {}: the hub lists {} bytes ({}) but serves {} bytes ({}); try again later",
        entry.name, job_.repo_id, entry.size, entry.sha256 + entry.git_sha1, file.at.size, etag));
  if (!claim(etag)) return;  // stopped
  file.lock = FileLock::acquire(job_.cache.lock_path(etag), cancelled);
  if (!file.lock.has_value()) return;  // stopped
  const std::filesystem::path blob = job_.cache.blob(etag);
  create_cache_folder(blob.parent_path());
  std::error_code error;
  if (std::filesystem::is_regular_file(blob, error) &&
      static_cast<int64_t>(std::filesystem::file_size(blob, error)) == entry.size) {
    meter_.adjust(entry.size);
    job_.cache.link(job_.commit, entry.name, etag);
    finish(file);
    return;
  }
  // Again: the list may not have told the size.
  require_free_disk(blob.parent_path(), entry.size - reserved_bytes(blob));
  file.parts = std::make_unique<PartFile>(blob, entry.size, job_.settings.part_bytes);
  meter_.adjust(file.parts->total_done());
  bool all_there = true;
  {
    const std::lock_guard lock(mutex_);
    for (size_t part = 0; part < file.parts->num_parts(); ++part)
      if (file.parts->done(part) < file.parts->length(part)) file.pending.push_back(part);
    all_there = file.pending.empty();
  }
  if (all_there) {
    complete(file);
  } else {
    changed_.notify_all();
  }
}

/// Waits until no other file of this transfer with the same content is under way: the file lock
/// holds off other processes, but some file systems know no locks. False when stopped.
bool HubTransfer::claim(const std::string& etag) {
  std::unique_lock lock(mutex_);
  while (!stopped()) {
    if (claimed_.insert(etag).second) return true;
    changed_.wait_for(lock, std::chrono::milliseconds(100));
  }
  return false;
}

/// The file is in the snapshot.
void HubTransfer::finish(File& file) {
  file.lock.reset();
  meter_.file_done();
  {
    const std::lock_guard lock(mutex_);
    claimed_.erase(file.at.etag);
    ++num_done_;
  }
  changed_.notify_all();
}

void HubTransfer::fetch(HttpSession& session, File& file, size_t part) {
  const PartEnd end = fetch_part(session, file, part);
  bool all_there = false;
  {
    const std::lock_guard lock(mutex_);
    --file.busy;
    if (end == PartEnd::kRangeIgnored) file.range_ignored = true;
    if (file.busy == 0 && file.range_ignored) {
      file.range_ignored = false;
      file.single = true;
      restart(file, file.entry.size);
    } else {
      all_there = file.busy == 0 && file.pending.empty();
    }
  }
  if (all_there) complete(file);
  changed_.notify_all();
}

/// The caller holds mutex_ and no part is being fetched.
void HubTransfer::restart(File& file, int64_t part_bytes) {
  meter_.adjust(-file.parts->total_done());
  file.parts->restart(part_bytes);
  file.pending.clear();
  for (size_t part = 0; part < file.parts->num_parts(); ++part) file.pending.push_back(part);
}

HubTransfer::PartEnd HubTransfer::fetch_part(HttpSession& session, File& file, size_t part) {
  PartFile& parts = *file.parts;
  Backoff backoff(job_.settings.max_attempts, job_.settings.retry_delay_ms,
                  [this] { return stopped(); });
  int64_t best = parts.done(part);
  int renewals = 0;
  while (parts.done(part) < parts.length(part)) {
    const std::string url = url_of(file);
    bool range_ignored = false;
    const HubResponse response = request_part(session, file, part, url, range_ignored);
    if (range_ignored) return PartEnd::kRangeIgnored;
    if (parts.done(part) == parts.length(part)) break;
    if (response.failure == HttpFailure::kCancelled || stopped()) throw_interrupted();
    if (parts.done(part) > best) {
      best = parts.done(part);
      backoff.reset();
    }
    if (response.failure == HttpFailure::kNone && looks_expired(response.status) &&
        !same_origin(url, job_.settings.endpoint) && renewals++ < kMaxRenewals) {
      renew_url(session, file, url);
      continue;
    }
    if (!response.ok() && !response.retryable())
      job_.remote.throw_answer(response, fmt::format("{} of {}", file.entry.name, job_.repo_id));
    if (!backoff.wait(response.retry_after_s)) throw_given_up(file, response);
  }
  parts.save(part);
  return PartEnd::kComplete;
}

HubResponse HubTransfer::request_part(HttpSession& session, File& file, size_t part,
                                      const std::string& url, bool& range_ignored) {
  PartFile& parts = *file.parts;
  HubRequest request;
  request.url = url;
  const int64_t from = parts.begin(part) + parts.done(part);
  const int64_t to = parts.begin(part) + parts.length(part) - 1;
  if (from > 0 || to + 1 < file.entry.size)
    request.headers.push_back(fmt::format("Range: bytes={}-{}", from, to));
  bool started = false;
  request.on_body = [&](const HubResponse& response, std::span<const std::byte> bytes) {
    if (!started) check_served_etag(file, response);
    if (!started && !accept_start(file, part, response)) {
      range_ignored = true;
      return false;
    }
    started = true;
    const int64_t room = parts.length(part) - parts.done(part);
    const size_t taken = std::min(bytes.size(), static_cast<size_t>(room));
    parts.append(part, bytes.first(taken));
    meter_.received(static_cast<int64_t>(taken));
    return taken == bytes.size();  // a server that sends more than was asked is not heard out
  };
  HubResponse response = session.follow(request);
  parts.note(part);
  return response;
}

/// Parts of two contents must not be mixed. Where a checksum is known it decides at the end, as
/// mirrors may name the same content differently.
void HubTransfer::check_served_etag(File& file, const HubResponse& response) {
  if (has_checksum(file)) return;
  const std::string served = etag_file_name(response.header("etag"));
  const std::lock_guard lock(file.url_mutex);
  if (file.served_etag.empty())
    file.served_etag = same_origin(file.at.url, job_.settings.endpoint) ? file.at.etag : served;
  if (file.served_etag != served) throw_changed(file);
}

/// Whether the body that begins is the range that was asked for. False: the whole file comes
/// instead, and other parts are under way. Throws NetworkError when it is something else.
bool HubTransfer::accept_start(File& file, size_t part, const HubResponse& response) {
  PartFile& parts = *file.parts;
  const int64_t from = parts.begin(part) + parts.done(part);
  if (response.status == 206) {
    const auto range = parse_content_range(response.header("content-range"));
    if (range.has_value() && range->first == from &&
        (range->second < 0 || range->second == file.entry.size))
      return true;
    throw NetworkError(fmt::format(
        "{} of {}: asked for bytes from {} of {}, the server sends \"{}\"; the file may have "
        "changed: run again",
        file.entry.name, job_.repo_id, from, file.entry.size, response.header("content-range")));
  }
  if (parts.num_parts() > 1) return false;
  if (from > 0) {  // one connection, from the start again
    meter_.adjust(-parts.total_done());
    parts.restart(file.entry.size);
  }
  return true;
}

std::string HubTransfer::url_of(File& file) {
  const std::lock_guard lock(file.url_mutex);
  return file.at.url;
}

void HubTransfer::renew_url(HttpSession& session, File& file, const std::string& expired) {
  const std::lock_guard lock(file.url_mutex);
  if (file.at.url != expired) return;  // another thread has
  ResolvedFile fresh =
      job_.remote.resolve(session, job_.commit, file.entry.name, [this] { return stopped(); });
  if (fresh.etag != file.at.etag) throw_changed(file);
  file.at.url = std::move(fresh.url);
}

void HubTransfer::complete(File& file) {
  meter_.report(true);
  if (!verify(file)) {
    if (stopped()) return;
    if (++file.failed_checks > 1) {
      file.parts->discard();
      throw NetworkError(fmt::format(
          "{} of {}: the checksum of what arrived is wrong, twice; a proxy or mirror may alter or "
          "cut the file: try again later, or another HF_ENDPOINT",
          file.entry.name, job_.repo_id));
    }
    const std::lock_guard lock(mutex_);
    restart(file, file.single ? file.entry.size : job_.settings.part_bytes);
    changed_.notify_all();
    return;
  }
  file.parts->publish();
  job_.cache.link(job_.commit, file.entry.name, file.at.etag);
  file.parts.reset();
  finish(file);
}

bool HubTransfer::has_checksum(const File& file) {
  return !file.entry.sha256.empty() || !file.entry.git_sha1.empty() || is_hex(file.at.etag, 64) ||
         is_hex(file.at.etag, 40);
}

/// Compares with what the listing states, else with the etag, which is a checksum on real hubs.
bool HubTransfer::verify(File& file) {
  const auto cancelled = [this] { return stopped(); };
  const std::filesystem::path& path = file.parts->data_path();
  const HubFile& entry = file.entry;
  const std::string& etag = file.at.etag;
  const bool listed = !entry.sha256.empty() || !entry.git_sha1.empty();
  const std::string sha256 = !listed && is_hex(etag, 64) ? etag : entry.sha256;
  if (!sha256.empty()) return sha256_of_file(path, cancelled) == sha256;
  const std::string git_sha1 = !listed && is_hex(etag, 40) ? etag : entry.git_sha1;
  return git_sha1.empty() || git_blob_sha1_of_file(path, cancelled) == git_sha1;
}

void HubTransfer::throw_changed(const File& file) {
  throw NetworkError(fmt::format("{} of {} changed on the hub during the download; run again",
                                 file.entry.name, job_.repo_id));
}

void HubTransfer::throw_interrupted() {
  const HubProgress progress = meter_.now();
  throw NetworkError(fmt::format(
      "download of {} interrupted; {} of {} are kept: run the same command again to go on",
      job_.repo_id, format_bytes(static_cast<double>(progress.bytes_done)),
      format_bytes(static_cast<double>(progress.bytes_total))));
}

void HubTransfer::throw_given_up(const File& file, const HubResponse& response) {
  if (stopped()) throw_interrupted();
  throw NetworkError(
      fmt::format("{} of {}: gave up after {} tries in a row without a byte ({}); what has arrived "
                  "is kept: run "
                  "the same command again to go on",
                  file.entry.name, job_.repo_id, job_.settings.max_attempts,
                  response.ok() ? "the server sends less than it should" : response.what()));
}

}  // namespace nanoflow
