#!/usr/bin/env python3
"""Runs `nanoflow bench serve` as a person would, against a server without a model's computation.

Usage: load_test.py NANOFLOW SOURCE_DIR [TEST...]
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "server"))
from server_process import Server  # noqa: E402

NANOFLOW = None
SOURCE = None


class BenchServe(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(NANOFLOW, "--null-step-us", "200", "--max-num-seqs", "64", "--api-key", "secret")

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__()

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def start(self, *arguments, port=None, key="secret"):
        command = [NANOFLOW, "bench", "serve", "--port", str(port or self.server.port), "--disable-tqdm", *arguments]
        env = {**os.environ, "OPENAI_API_KEY": key}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)

    def bench(self, *arguments, code=0, **kw):
        """stdout, stderr and the result file's JSON (None if there is none)."""
        path = self.folder / "result.json"
        process = self.start("--save-detailed", "--result-dir", str(self.folder), "--result-filename", path.name,
                             *arguments, **kw)
        out, err = process.communicate(timeout=120)
        self.assertEqual(process.returncode, code, out + err)
        return out, err, json.loads(path.read_text()) if path.exists() else None

    def test_random_prompts(self):
        out, _, result = self.bench("--num-prompts", "50", "--random-input-len", "20", "--random-output-len", "30",
                                    "--ignore-eos", "--max-concurrency", "10", "--metadata", "who=me",
                                    "--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99")
        self.assertTrue(out.startswith("============ Serving Benchmark Result ============\n"), out)
        self.assertIn("P99 E2EL (ms):", out)
        self.assertEqual((result["completed"], result["failed"]), (50, 0))
        self.assertEqual(result["total_input_tokens"], 50 * 20)
        self.assertEqual(result["total_output_tokens"], 50 * 30)
        self.assertEqual((result["who"], result["request_rate"], result["max_concurrency"]), ("me", "inf", 10))
        self.assertLessEqual(result["max_concurrent_requests"], 10)
        self.assertLessEqual(result["mean_ttft_ms"], result["mean_e2el_ms"])
        self.assertTrue(all(len(gaps) <= 30 for gaps in result["itls"]))

    def test_chats_of_a_file_at_a_rate(self):
        prompts = self.folder / "prompts.jsonl"
        prompts.write_text('{"prompt": "Hello"}\n{"messages": [{"role": "user", "content": "Hi"}]}\n')
        _, _, result = self.bench("--backend", "openai-chat", "--dataset-name", "custom", "--dataset-path", str(prompts),
                                  "--custom-output-len", "5", "--num-prompts", "10", "--request-rate", "50",
                                  "--goodput", "ttft:10000", "e2el:10000")
        self.assertEqual((result["completed"], result["total_output_tokens"]), (10, 50))
        self.assertGreater(result["duration"], 0.15)
        self.assertGreater(result["request_goodput"], 0)

    def test_traces(self):
        _, _, result = self.bench("--dataset-name", "trace", "--dataset-path", f"{SOURCE}/bench/traces/sharegpt.csv",
                                  "--num-prompts", "20", "--ignore-eos")
        lines = pathlib.Path(f"{SOURCE}/bench/traces/sharegpt.csv").read_text().split()[1:21]
        self.assertEqual(sorted(result["input_lens"]), sorted(int(line.split(",")[0]) for line in lines))

    def test_failures_are_counted_and_shown(self):
        out, err, result = self.bench("--num-prompts", "3", "--ready-check-timeout-sec", "0", "--model", "other", code=1)
        self.assertIn("3 requests failed: HTTP 404", err)
        self.assertEqual((result["completed"], result["failed"]), (0, 3))

    def test_a_refusal_is_not_waited_for(self):
        for arguments in (), ("--model", "other"):
            begin = time.monotonic()
            _, err, _ = self.bench(*arguments, key="secret" if arguments else "wrong", code=1)
            self.assertIn("404" if arguments else "401", err)
            self.assertLess(time.monotonic() - begin, 20)

    def test_nobody_there(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        _, err, _ = self.bench("--ready-check-timeout-sec", "0.1", port=port, code=1)
        self.assertIn("refused", err)

    def test_interrupt_reports_what_was_measured(self):
        process = self.start("--num-prompts", "500", "--request-rate", "20", "--random-input-len", "5",
                             "--random-output-len", "5")
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130, err)
        self.assertRegex(out, r"Successful requests: +[1-9]")

    def test_appended_results_are_lines(self):
        for _ in range(2):
            self.bench_append()
        lines = (self.folder / "many.json").read_text().splitlines()
        self.assertEqual([json.loads(line)["completed"] for line in lines], [2, 2])

    def bench_append(self):
        process = self.start("--num-prompts", "2", "--append-result", "--result-dir", str(self.folder),
                             "--result-filename", "many.json", "--num-warmups", "1")
        _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err)

    def test_tls(self):
        names = [str(self.folder / name) for name in ("key.pem", "cert.pem")]
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                        "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", names[0], "-out", names[1]],
                       check=True, capture_output=True)
        with Server(NANOFLOW, "--null-step-us", "0", "--ssl-keyfile", names[0], "--ssl-certfile", names[1], wait=False) as server:
            command = [NANOFLOW, "bench", "serve", "--base-url", f"https://127.0.0.1:{server.port}", "--num-prompts", "20",
                       "--ready-check-timeout-sec"]
            trusting = {**os.environ, "SSL_CERT_FILE": names[1]}
            done = subprocess.run([*command, "60"], capture_output=True, text=True, timeout=90, env=trusting)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stdout, r"Successful requests: +20 ")
            done = subprocess.run([*command, "0.1"], capture_output=True, text=True, timeout=90)
            self.assertEqual(done.returncode, 1, "a certificate that nobody vouches for")
            self.assertIn("certificate", done.stderr)

    def test_wrong_usage(self):
        for arguments, why in ((("--goodput", "speed:3"), "--goodput"), (("--extra-body", "[1]"), "--extra-body"),
                               (("--base-url", "nonsense"), "--base-url")):
            _, err, _ = self.bench(*arguments, code=1)
            self.assertIn(why, err)


if __name__ == "__main__":
    NANOFLOW, SOURCE = sys.argv.pop(1), sys.argv.pop(1)
    unittest.main()
