// A fixture with a real vocabulary (Llama 3's) and its chat template, for tests of api/.
#pragma once

#include <cstdlib>
#include <filesystem>

#include <gtest/gtest.h>

#include "api/text_model.h"
#include "text/chat_template.h"
#include "text/tokenizer_loader.h"

namespace nanoflow {

/// What tools/fetch_test_inputs.sh has collected, in `name` unless `variable` says where.
inline std::filesystem::path test_inputs(const char* variable, const char* name) {
  const char* set = std::getenv(variable);
  return set != nullptr ? std::filesystem::path(set)
                        : std::filesystem::path(NANOFLOW_SOURCE_DIR) / ".deps" / name;
}

class WithVocabulary : public testing::Test {
 protected:
  void SetUp() override {
    const auto vocabulary =
        test_inputs("NANOFLOW_VOCAB_DIR", "vocab") / "llama_models/llama_models/llama3";
    const auto chat = test_inputs("NANOFLOW_TEMPLATE_DIR", "templates") / "llama3.jinja";
    for (const auto& path : {vocabulary, chat})
      ASSERT_TRUE(std::filesystem::exists(path)) << path << " is missing: run ./test.sh";
    model_.tokenizer = load_tokenizer(vocabulary);
    model_.chat_template = ChatTemplate::compile(load_chat_template(chat.string()),
                                                 {{"bos_token", "<|begin_of_text|>"}});
    model_.limits.vocab_size = model_.tokenizer->vocab_size();
  }

  TextModel model_;
};

}  // namespace nanoflow
