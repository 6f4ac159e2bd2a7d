#!/usr/bin/env python3
"""Checks what is promised around the nanoflow binary: installation, packages, start-up, memory and reports.

Usage: product_test.py NANOFLOW BUILD_FOLDER SOURCE_FOLDER [SUITE...]

The suite Package builds a .deb, which compiles the CPU kernels again; it runs only when it is named.
"""
import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

NANOFLOW = None
BUILD = None
SOURCE = None
MODELS = None
TIMEOUT_S = 300


def execute(command, check=True, timeout=TIMEOUT_S, cwd=None):
    """The finished process; with `check` a failure shows what it printed."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=timeout, cwd=cwd)
    if check and done.returncode != 0:
        raise AssertionError(f"exit code {done.returncode}: {command}\n{done.stdout}\n{done.stderr}")
    return done


def run(*arguments, check=True):
    return execute([NANOFLOW, *arguments], check=check)


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="nanoflow-test-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def config_only(self, **changes):
        """A folder with nothing but a config.json."""
        folder = self.folder / "config-only"
        folder.mkdir(exist_ok=True)
        config = json.loads((MODELS / "file_llama_f32" / "config.json").read_text())
        config.update(changes)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    def prompts(self):
        path = self.folder / "in.jsonl"
        path.write_text("".join(json.dumps({"prompt": [3 + i, 7, 11], "max_tokens": 6, "temperature": 0, "ignore_eos": True,
                                            "return_token_ids": True}) + "\n" for i in range(4)))
        return path

    def tokens(self, model, *options, binary=None):
        """Output token ids of run-batch over four prompts."""
        out = self.folder / "out.jsonl"
        execute([binary or NANOFLOW, "run-batch", "-i", self.prompts(), "-o", out, "--overwrite", "--model", model,
                 "--skip-tokenizer-init", "--dtype", "float32", "--max-num-seqs", 4, *options])
        return [json.loads(line)["response"]["body"]["choices"][0]["token_ids"] for line in out.read_text().splitlines()]

    def check_installed(self, prefix):
        """A prefix has everything, and its program works by itself."""
        binary = prefix / "bin" / "nanoflow"
        for name in ("share/nanoflow/specs/llama.tp1.overlap2.json", "share/nanoflow/data/prompts.jsonl",
                     "share/nanoflow/bench/traces/sharegpt.csv", "share/doc/nanoflow/LICENSE", "share/doc/nanoflow/NOTICE",
                     "share/doc/nanoflow/README.md", "share/doc/nanoflow/CHANGELOG.md", "share/doc/nanoflow/docs/status.md"):
            self.assertGreater((prefix / name).stat().st_size, 0, name)
        version = execute([binary, "--version"], cwd=self.folder).stdout
        self.assertRegex(version, r"^nanoflow \d+\.\d+\.\d+ \(")
        self.assertIn("LlamaForCausalLM", execute([binary, "inspect", MODELS / "file_llama_f32"], cwd=self.folder).stdout)
        model = MODELS / "file_llama_f32"
        spec = prefix / "share/nanoflow/specs/llama.tp1.overlap2.json"
        self.assertEqual(self.tokens(model, "--pipeline", spec, "--reference-kernels", binary=binary),
                         self.tokens(model, "--reference-kernels", binary=binary))


class Install(Case):
    def test_an_installed_program_works_by_itself(self):
        prefix = self.folder / "prefix"
        execute(["cmake", "--install", BUILD, "--prefix", prefix])
        self.check_installed(prefix)

    def test_an_old_cpu_is_refused_by_name(self):
        emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
        if not emulator:
            self.skipTest("no qemu-x86_64")
        header = (BUILD / "generated/nanoflow_cpu_features/cpu_features.h").read_text()
        if '"avx2"' not in header:
            self.skipTest("this build needs no AVX2")
        done = execute([emulator, "-cpu", "Nehalem", NANOFLOW, "--version"], check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("this CPU lacks avx avx2", done.stderr)
        self.assertEqual(done.stdout, "")


class Package(Case):
    def test_a_deb_runs_on_every_cpu_that_it_promises(self):
        execute(["cpack", "-G", "DEB", "-B", self.folder], cwd=BUILD, timeout=1800)
        package = next(self.folder.glob("nanoflow_*.deb"))
        fields = execute(["dpkg-deb", "-f", package]).stdout
        self.assertIn("Package: nanoflow\n", fields)
        self.assertRegex(fields, r"Depends: .*libc6.*libstdc\+\+6")
        execute(["dpkg-deb", "-x", package, self.folder / "root"])
        self.check_installed(self.folder / "root/usr")
        binary = self.folder / "root/usr/bin/nanoflow"
        self.assertNotIn(".symtab", execute(["readelf", "-SW", binary]).stdout)
        emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
        if emulator:
            done = execute([emulator, "-cpu", "Haswell", binary, "inspect", MODELS / "file_llama_f32"], check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("LlamaForCausalLM", done.stdout)


class Inspect(Case):
    def test_stored_types_of_a_gguf_file(self):
        path = MODELS / "gguf_llama3" / "model.gguf"
        report = json.loads(run("inspect", path, "--json").stdout)
        self.assertLess(sum(entry["bytes"] for entry in report["stored"]), path.stat().st_size)
        self.assertEqual(report["stored_dtype"], report["stored"][0]["type"])
        text = run("inspect", path).stdout
        for entry in report["stored"]:
            self.assertIn(f"{entry['type']} ({entry['tensors']} tensors, ", text)
        self.assertNotIn("stored as     bfloat16", text)

    def test_stored_types_of_safetensors(self):
        report = json.loads(run("inspect", MODELS / "file_llama_f32", "--json").stdout)
        self.assertEqual([entry["type"] for entry in report["stored"]], ["F32"])

    def test_a_folder_without_weights(self):
        folder = self.config_only()
        self.assertEqual(json.loads(run("inspect", folder, "--json").stdout)["stored"], [])
        self.assertIn("no weights here", run("inspect", folder).stdout)


class StartUp(Case):
    def test_progress_and_summary_are_plain_lines_elsewhere_than_on_a_terminal(self):
        done = run("run-batch", "-i", self.prompts(), "--model", MODELS / "file_llama_f32", "--skip-tokenizer-init")
        self.assertNotIn("\r", done.stderr)
        self.assertNotIn("\x1b", done.stderr)
        self.assertRegex(done.stderr, r"Loading weights  \[#{20}\] 100 %")
        for word in ("model", "device", "weights", "KV cache", "tokens", "requests at full length", "pipeline", "sequential"):
            self.assertIn(word, done.stderr)

    def test_weights_that_do_not_fit_are_refused_before_they_are_made(self):
        folder = self.config_only(hidden_size=65536, intermediate_size=262144, num_hidden_layers=200, num_attention_heads=512,
                                  num_key_value_heads=512, head_dim=128)
        done = run("run-batch", "-i", self.prompts(), "--model", folder, "--skip-tokenizer-init", "--load-format", "dummy", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        self.assertIn("the weights need", done.stderr)


class DummyWeights(Case):
    def test_any_config_runs_and_the_seed_decides(self):
        folder = self.config_only()
        for command in ("generate", "run-batch", "bench throughput"):
            self.assertIn("--load-format", run(*command.split(), "--help").stdout)
        first = self.tokens(folder, "--load-format", "dummy", "--seed", 1, "--threads", 1)
        self.assertEqual(first, self.tokens(folder, "--load-format", "dummy", "--seed", 1, "--threads", 4))
        self.assertNotEqual(first, self.tokens(folder, "--load-format", "dummy", "--seed", 2))
        self.assertEqual(sum(map(len, first)), 24)

    def test_without_weights_and_without_dummy_the_missing_file_is_named(self):
        done = run("run-batch", "-i", self.prompts(), "--model", self.config_only(), "--skip-tokenizer-init", check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("model.safetensors", done.stderr)


class Memory(Case):
    def test_loading_experts_stays_within_the_weights_and_half_a_gibibyte(self):
        # One matrix of experts has 768 MiB: holding it twice would break the bound.
        config = json.loads((MODELS / "file_mixtral_bf16_sharded" / "config.json").read_text())
        config.update(hidden_size=1536, intermediate_size=8192, num_hidden_layers=1, num_attention_heads=12, num_key_value_heads=2,
                      head_dim=128, num_local_experts=16, vocab_size=128)
        folder = self.folder / "mixtral"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        weights = json.loads(run("inspect", folder, "--json", "--dtype", "bfloat16").stdout)["weight_bytes_per_rank"]
        self.assertGreater(weights, 1 << 30)
        process = subprocess.Popen([NANOFLOW, "run-batch", "-i", str(self.prompts()), "--model", str(folder), "--load-format", "dummy",
                                    "--skip-tokenizer-init", "--dtype", "bfloat16", "--kv-cache-gib", "0.01", "--max-num-seqs", "4",
                                    "--max-model-len", "64"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.assertEqual(process.returncode, 0)
        self.assertGreater(usage.ru_maxrss * 1024, weights, "the weights were not there")
        self.assertLess(usage.ru_maxrss * 1024, weights + (512 << 20))


class Report(Case):
    def test_shipped_traces_are_lengths_that_fit(self):
        for name in ("sharegpt", "lmsys", "splitwise"):
            with (SOURCE / "bench/traces" / f"{name}.csv").open() as file:
                rows = [(int(row["input_len"]), int(row["output_len"])) for row in csv.DictReader(file)]
            self.assertEqual(len(rows), 200, name)
            self.assertTrue(all(a > 0 and b > 0 and a + b <= 4096 for a, b in rows), name)

    def test_a_shipped_trace_runs_and_every_figure_is_there(self):
        trace = SOURCE / "bench/traces/sharegpt.csv"
        report = self.folder / "report.json"
        # The fixture's positions end at 128, so the rows that fit are the short ones.
        done = run("bench", "throughput", "--model", MODELS / "file_llama_f32", "--lengths", trace, "--lengths-in-order",
                   "--num-requests", 12, "--json", report)
        with trace.open() as file:
            rows = [(int(row["input_len"]), int(row["output_len"])) for row in csv.DictReader(file)]
        rows = [row for row in rows if sum(row) <= 128]
        rows = [rows[i % len(rows)] for i in range(12)]
        values = json.loads(report.read_text())
        self.assertEqual(values["prompt_tokens"], sum(row[0] for row in rows))
        self.assertEqual(values["generated_tokens"], sum(row[1] for row in rows))
        for key in ("total_tok_per_s", "steady_tok_per_s", "percent_of_compute_optimum", "compute_optimum_tok_per_s",
                    "sequential_roofline_tok_per_s", "gemm_ceiling_flops", "read_ceiling_bytes_per_s"):
            self.assertGreaterEqual(values[key], 0, key)
        self.assertAlmostEqual(values["percent_of_compute_optimum"],
                               100 * values["total_tok_per_s"] / values["compute_optimum_tok_per_s"], places=6)
        self.assertLessEqual(values["sequential_roofline_tok_per_s"], values["compute_optimum_tok_per_s"])
        self.assertIsNone(values["mfu_percent"])  # a CPU has no datasheet figure
        self.assertIn("joules_per_token", values)
        self.assertIn("overlap", values["step_time"])
        for word in ("whole run", "steady state", "sequential roofline", "MFU", "energy", "step time", "overlap"):
            self.assertIn(word, done.stdout)


if __name__ == "__main__":
    NANOFLOW = os.path.abspath(sys.argv[1])
    BUILD = pathlib.Path(sys.argv[2]).resolve()
    SOURCE = pathlib.Path(sys.argv[3]).resolve()
    MODELS = SOURCE / "tests/fixtures/models"
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=2)
