// specs/ holds what the generators give for Llama's graph, so that people can read, copy and change
// it. NANOFLOW_WRITE_SPECS=1 in the environment writes the files anew.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <set>

#include "pipeline/builtin_specs.h"
#include "planning.h"

namespace nanoflow {
namespace {

TEST(ShippedSpecs, AreWhatTheGeneratorsGive) {
  const std::filesystem::path folder = std::filesystem::path(NANOFLOW_SOURCE_DIR) / "specs";
  const bool write = std::getenv("NANOFLOW_WRITE_SPECS") != nullptr;
  std::set<std::string> names;
  for (const int tp : {1, 2}) {
    const OpGraph graph = build_forward_graph(large_config("LlamaForCausalLM"), tp, DType::kBF16);
    for (const std::string& name : builtin_spec_names()) {
      // Without collectives two lanes are all that three could use.
      if (tp == 1 && name == "overlap3") continue;
      PipelineSpec spec = load_spec(name, graph);
      spec.key.tp = tp;
      const std::string file = "llama.tp" + std::to_string(tp) + "." + name + ".json";
      if (write) write_spec(folder / file, spec);
      EXPECT_EQ(read_spec(folder / file), spec) << file;
      names.insert(file);
    }
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".json" &&
        entry.path().filename().string().rfind("llama.", 0) == 0) {
      EXPECT_TRUE(names.contains(entry.path().filename().string())) << entry.path();
    }
}

}  // namespace
}  // namespace nanoflow
