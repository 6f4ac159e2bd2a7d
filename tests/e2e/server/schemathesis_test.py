#!/usr/bin/env python3
"""Sends a running server what its own /openapi.json allows and forbids (schemathesis), and checks every answer.

Usage: schemathesis_test.py NANOFLOW. Exit code 77: schemathesis is not installed.
"""

import os
import shutil
import subprocess
import sys

from server_process import Server

# Rules between fields (stream_options needs stream) and of the model (its vocabulary, context and template) make the
# server refuse bodies that a schema allows; such a refusal must still be an answer of the document.
EXCLUDED = "positive_data_acceptance"


def main():
    program = shutil.which("schemathesis", path=os.environ.get("NANOFLOW_TEST_PYTHON", "") + os.pathsep + os.environ["PATH"])
    if program is None:
        print("skipped: schemathesis is not installed; .ci/run installs the version of deps.lock")
        return 77
    args = ("--max-num-seqs", "32", "--kv-cache-gib", "0.5", "--max-model-len", "256")
    with Server(sys.argv[1], *args) as server:
        done = subprocess.run(
            [program, "run", f"http://127.0.0.1:{server.port}/openapi.json", "--mode", "all", "--phases", "coverage,fuzzing",
             "--max-examples", "10", "--seed", "1", "--generation-database", "none", "--max-time", "60", "--workers", "2",
             "--request-timeout", "30", "--exclude-checks", EXCLUDED, "--continue-on-failure", "--no-color"],
            capture_output=True, text=True)
        print(done.stdout[-20000:], done.stderr[-4000:])
        assert done.returncode == 0, "schemathesis has found failures"
        server.wait_idle()
        assert server.metric("vllm:kv_cache_usage_perc") == 0, "pages leaked"
        assert server.stop() == 0, server.text()
    return 0


if __name__ == "__main__":
    sys.exit(main())
