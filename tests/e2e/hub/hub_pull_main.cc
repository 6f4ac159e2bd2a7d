// Pulls one repository with the environment's settings and prints the snapshot's path: a process
// that tests can kill. Arguments: REPO REVISION PART_BYTES [PATTERN...].
#include <cstdio>
#include <string>

#include <fmt/format.h>

#include "base/error.h"
#include "base/log.h"
#include "formats/hub.h"

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  try {
    nanoflow::Logger logger;
    nanoflow::HubSettings settings = nanoflow::hub_settings_from_environment();
    settings.part_bytes = std::stoll(argv[3]);
    settings.connections = 2;
    nanoflow::PullOptions options;
    options.revision = argv[2];
    options.include.assign(argv + 4, argv + argc);
    const nanoflow::HubClient client(settings, logger);
    fmt::print("{}\n", client.pull(argv[1], options).path.string());
    return 0;
  } catch (const nanoflow::EnvironmentError& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
