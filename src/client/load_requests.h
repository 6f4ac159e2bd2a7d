// The requests of a load test: bodies of OpenAI's API from a data set or from random lengths.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "client/load_client.h"

namespace nanoflow {

struct LoadRequestOptions {
  bool is_chat = false;
  std::string model;
  std::string dataset = "random";  ///< random | trace | sharegpt | custom
  std::filesystem::path path;      ///< of the data set; not for random
  int64_t num_prompts = 1000;      ///< a smaller data set starts over
  int64_t input_len = 1024;        ///< of random, tokens
  int64_t output_len = 128;        ///< of random, tokens
  double range_ratio = 0;          ///< of random: lengths vary by this share
  int64_t file_output_len = 256;   ///< of items of a file that do not say it themselves
  int64_t vocab_size = 30000;      ///< random prompts are token ids below this
  uint64_t seed = 0;
  bool ignore_eos = false;
  std::optional<double> temperature;  ///< unset: the server's
  Json extra_body;                    ///< an object whose members are added, or null
};

/// Bodies that ask for a stream with usage, in order, all arriving at 0. Random prompts are token
/// ids, and for chats common words, about one token each. Throws ConfigError, IoError, FormatError.
[[nodiscard]] std::vector<LoadRequest> make_load_requests(const LoadRequestOptions& options);

}  // namespace nanoflow
