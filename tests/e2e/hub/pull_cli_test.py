#!/usr/bin/env python3
"""nanoflow pull as a person runs it, against fake_hub.py. Usage: pull_cli_test.py NANOFLOW"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

import fake_hub

NANOFLOW = None
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
          "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
          "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "torch_dtype": "float32"}


class Pull(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.world = fake_hub.World()
        cls.port = fake_hub.start(cls.world, "hub", fake_hub.start(cls.world, "cdn"))

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nanoflow-test-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.serve(1_000_000)

    def serve(self, size, faults=()):
        files = {"config.json": {"text": json.dumps(CONFIG)}, "model.safetensors": {"size": size},
                 "notes.txt": {"text": "hello"}, "pytorch_model.bin": {"size": 1000}}
        self.world.control({"reset": True, "faults": list(faults), "repos": {"org/model": {"files": files}}})

    def environment(self, **settings):
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        return {**kept, "HF_ENDPOINT": f"http://127.0.0.1:{self.port}", "HF_HOME": str(self.folder),
                "NO_PROXY": "127.0.0.1", **settings}

    def run_nanoflow(self, *arguments, **settings):
        return subprocess.run([NANOFLOW, *arguments], capture_output=True, text=True, timeout=60,
                              env=self.environment(**settings))

    def pulled(self, *arguments):
        """Names in the snapshot that stdout names, and nothing else stands on stdout."""
        done = self.run_nanoflow("pull", "org/model", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.count("\n"), 1)
        path = pathlib.Path(done.stdout.strip())
        self.assertEqual(path.parent, self.folder / "hub" / "models--org--model" / "snapshots")
        return sorted(p.name for p in path.iterdir())

    def test_prints_the_folder_of_what_serving_needs(self):
        self.assertEqual(self.pulled(), ["config.json", "model.safetensors", "notes.txt"])

    def test_include_and_exclude(self):
        self.assertEqual(self.pulled("--include", "*.json", "--include", "*.bin"), ["config.json", "pytorch_model.bin"])
        self.assertEqual(self.pulled("--exclude", "*.bin", "--include", "*"),
                         ["config.json", "model.safetensors", "notes.txt", "pytorch_model.bin"])

    def test_progress_is_in_bytes_on_stderr(self):
        self.serve(1_000_000, [{"match": "signature", "times": -1, "do": "trickle", "bytes": 100_000, "pause_s": 0.05}])
        done = self.run_nanoflow("pull", "org/model")
        self.assertIn("Downloading org/model", done.stderr)
        self.assertIn("100 %", done.stderr)

    def test_errors_are_one_line_and_exit_code_1(self):
        for arguments, part in [(["org/absent"], "does not exist or is private"), (["nonsense/a/b"], "is no hub id"),
                                (["org/model", "--revision", "v9"], "has no revision"),
                                (["org/model", "--include", "*.gguf"], "no file matches")]:
            done = self.run_nanoflow("pull", *arguments)
            self.assertEqual(done.returncode, 1)
            self.assertEqual(done.stdout, "")
            self.assertIn(part, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_bad_settings_are_named(self):
        self.assertIn("HF_ENDPOINT", self.run_nanoflow("pull", "org/model", HF_ENDPOINT="ftp://x").stderr)
        self.assertIn("HF_HUB_OFFLINE", self.run_nanoflow("pull", "org/model", HF_HUB_OFFLINE="1").stderr)

    def test_interrupt_keeps_what_arrived(self):
        self.serve(20_000_000, [{"match": "signature", "times": -1, "do": "trickle", "bytes": 100_000, "pause_s": 0.02}])
        child = subprocess.Popen([NANOFLOW, "pull", "org/model"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 text=True, env=self.environment())
        while sum(entry["sent"] for entry in self.world.log) < 3_000_000:
            self.assertIsNone(child.poll())
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
        self.assertEqual((child.returncode, out), (130, ""))
        self.assertIn("run the same command again to go on", err)
        self.world.control({"faults": []})
        before = sum(entry["sent"] for entry in self.world.log)
        self.assertIn("model.safetensors", self.pulled())
        self.assertLess(sum(entry["sent"] for entry in self.world.log) - before, 18_000_000)

    def test_commands_take_hub_ids_and_ask_the_hub_once(self):
        header = json.dumps({"x": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})
        weights = "\0".join([chr(len(header)), *[""] * 7]) + header  # the header's length in eight bytes, then itself
        files = {"config.json": {"text": json.dumps(CONFIG)}, "model.safetensors": {"text": weights}}
        self.world.control({"reset": True, "repos": {"org/model": {"files": files}}})
        for _ in range(2):
            done = self.run_nanoflow("inspect", "org/model")
            self.assertEqual(done.returncode, 1, done.stderr)  # it has come, but is no whole checkpoint
            self.assertIn("has no tensor model.embed_tokens.weight", done.stderr)
            self.assertIn("LlamaForCausalLM", done.stdout)
            self.assertIn("F32", done.stdout)
        self.assertEqual(len([entry for entry in self.world.log if "/api/" in entry["path"]]), 1)


if __name__ == "__main__":
    NANOFLOW = sys.argv.pop(1)
    unittest.main()
