// The subcommands. Each add_x() declares its options on `app` and, when it is the one chosen, sets
// `command` to what main() shall run; the returned int is the process's exit code.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace nanoflow {

using Command = std::function<int()>;

void add_generate(CLI::App& app, Command& command);
void add_run_batch(CLI::App& app, Command& command);
void add_bench(CLI::App& app, Command& command);
void add_bench_serve(CLI::App& bench, Command& command);
void add_serve(CLI::App& app, Command& command);
void add_pull(CLI::App& app, Command& command);
void add_inspect(CLI::App& app, Command& command);

}  // namespace nanoflow
