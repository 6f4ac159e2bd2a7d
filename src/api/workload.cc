#include "api/workload.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <sstream>
#include <string_view>

#include <fmt/format.h>

#include "base/error.h"
#include "base/mmap.h"
#include "base/random.h"

namespace nanoflow {
namespace {

std::vector<std::string_view> split_csv(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  std::vector<std::string_view> fields;
  while (true) {
    const size_t comma = line.find(',');
    fields.push_back(line.substr(0, comma));
    if (comma == std::string_view::npos) return fields;
    line.remove_prefix(comma + 1);
  }
}

int64_t column(const std::vector<std::string_view>& header, std::string_view a,
               std::string_view b) {
  for (size_t i = 0; i < header.size(); ++i)
    if (header[i] == a || header[i] == b) return static_cast<int64_t>(i);
  return -1;
}

int64_t parse_length(std::string_view text, const std::string& path, int64_t line) {
  int64_t value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || value < 0)
    throw FormatError(path, fmt::format("line {}: \"{}\" is no length", line, text));
  return value;
}

int64_t scaled(SplitMix64& random, int64_t length, double ratio) {
  if (ratio <= 0) return length;
  const auto low = static_cast<int64_t>(std::floor(static_cast<double>(length) * (1 - ratio)));
  const auto high = static_cast<int64_t>(std::ceil(static_cast<double>(length) * (1 + ratio)));
  return std::max<int64_t>(1, random.between(low, high));
}

/// Any 64-bit lengths and any doubles come in; what passes cannot overflow later.
void check_options(const WorkloadOptions& options) {
  if (options.num_requests < 0 || options.num_requests > kMaxWorkloadRequests)
    throw ConfigError("--num-requests", fmt::format("must be between 0 and {}, got {}",
                                                    kMaxWorkloadRequests, options.num_requests));
  if (!(options.range_ratio >= 0 && options.range_ratio < 1))
    throw ConfigError("--range-ratio",
                      fmt::format("must be in [0, 1), got {}", options.range_ratio));
  if (!(options.request_rate >= 0 && std::isfinite(options.request_rate)))
    throw ConfigError(
        "--request-rate",
        fmt::format("must be 0 or a number of requests per second, got {}", options.request_rate));
}

/// Throws ConfigError unless the longest request that may be drawn fits.
void check_lengths(const WorkloadOptions& options, int64_t max_model_len) {
  if (options.input_len < 1 || options.output_len < 1)
    throw ConfigError("--input-len + --output-len", "each must be at least 1");
  const double longest =
      (static_cast<double>(options.input_len) + static_cast<double>(options.output_len)) *
      (1 + options.range_ratio);
  if (longest > static_cast<double>(max_model_len))
    throw ConfigError("--input-len + --output-len",
                      fmt::format("up to {:.0f} tokens do not fit into --max-model-len {}", longest,
                                  max_model_len));
}

std::vector<std::pair<int64_t, int64_t>> trace_lengths(const WorkloadOptions& options,
                                                       int64_t max_model_len, SplitMix64& random) {
  auto rows = read_length_trace(options.trace);
  std::erase_if(rows, [&](const auto& row) {
    return row.first < 1 || row.second < 1 || row.first > max_model_len - row.second;
  });
  if (rows.empty())
    throw ConfigError("--lengths", fmt::format("no row of {} fits into --max-model-len {}",
                                               options.trace.string(), max_model_len));
  const int64_t wanted =
      options.num_requests > 0 ? options.num_requests : static_cast<int64_t>(rows.size());
  std::vector<std::pair<int64_t, int64_t>> lengths;
  for (int64_t i = 0; i < wanted; ++i) {
    const int64_t row = options.trace_in_order
                            ? i % static_cast<int64_t>(rows.size())
                            : random.between(0, static_cast<int64_t>(rows.size()) - 1);
    lengths.push_back(rows[static_cast<size_t>(row)]);
  }
  return lengths;
}

}  // namespace

std::vector<std::pair<int64_t, int64_t>> read_length_trace(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  std::istringstream lines(text);
  std::string line;
  if (!std::getline(lines, line)) throw FormatError(path.string(), "is empty");
  const std::vector<std::string_view> header = split_csv(line);
  const int64_t input = column(header, "input_len", "ContextTokens");
  const int64_t output = column(header, "output_len", "GeneratedTokens");
  if (input < 0 || output < 0)
    throw FormatError(
        path.string(),
        "the first line must name input_len,output_len or ContextTokens,GeneratedTokens");
  std::vector<std::pair<int64_t, int64_t>> rows;
  for (int64_t number = 2; std::getline(lines, line); ++number) {
    if (line.empty() || line == "\r") continue;
    const std::vector<std::string_view> fields = split_csv(line);
    if (std::max(input, output) >= static_cast<int64_t>(fields.size()))
      throw FormatError(path.string(),
                        fmt::format("line {} has only {} fields", number, fields.size()));
    rows.emplace_back(parse_length(fields[static_cast<size_t>(input)], path.string(), number),
                      parse_length(fields[static_cast<size_t>(output)], path.string(), number));
  }
  if (rows.empty()) throw FormatError(path.string(), "has no rows");
  return rows;
}

Json WorkloadOptions::to_json() const {
  const bool drawn = trace.empty();
  return Json::object({{"input_len", drawn ? Json(input_len) : Json()},
                       {"output_len", drawn ? Json(output_len) : Json()},
                       {"range_ratio", drawn ? Json(range_ratio) : Json()},
                       {"trace", drawn ? Json() : Json(trace.string())},
                       {"trace_in_order", trace_in_order},
                       {"request_rate", request_rate},
                       {"seed", static_cast<int64_t>(seed)}});
}

std::vector<WorkItem> make_workload(const WorkloadOptions& options, int64_t max_model_len) {
  check_options(options);
  SplitMix64 random(options.seed);
  std::vector<std::pair<int64_t, int64_t>> lengths;
  if (!options.trace.empty()) {
    lengths = trace_lengths(options, max_model_len, random);
  } else {
    constexpr int64_t kDefaultRequests = 1000;
    check_lengths(options, max_model_len);
    const int64_t wanted = options.num_requests > 0 ? options.num_requests : kDefaultRequests;
    for (int64_t i = 0; i < wanted; ++i) {
      const int64_t input = scaled(random, options.input_len, options.range_ratio);
      lengths.emplace_back(input, scaled(random, options.output_len, options.range_ratio));
    }
  }
  std::vector<WorkItem> items;
  double now_s = 0;
  for (const auto& [input, output] : lengths) {
    // Gaps of a Poisson process are exponential; the first request starts the clock.
    if (options.request_rate > 0 && !items.empty())
      now_s += -std::log1p(-random.uniform()) / options.request_rate;
    items.push_back({input, output, now_s, random.next()});
  }
  return items;
}

std::vector<int32_t> random_prompt(const WorkItem& item, int64_t vocab_size,
                                   const std::vector<int32_t>& forbidden) {
  SplitMix64 random(item.prompt_seed);
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(item.input_len));
  while (static_cast<int64_t>(ids.size()) < item.input_len) {
    const auto id = static_cast<int32_t>(random.between(0, vocab_size - 1));
    if (std::find(forbidden.begin(), forbidden.end(), id) == forbidden.end()) ids.push_back(id);
  }
  return ids;
}

}  // namespace nanoflow
