#!/usr/bin/env python3
"""Runs clang-tidy (.clang-tidy) over src/, only on files whose text, headers or checks changed since they were clean.

  tools/run_tidy.py build/ci               every file of that build tree's compile_commands.json under src/
  tools/run_tidy.py build/ci src/engine    those below a folder
Clean files are remembered by hash in $XDG_CACHE_HOME/nanoflow-tidy (default ~/.cache/nanoflow-tidy).
"""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(rb'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def find_tool():
    for name in ("clang-tidy-14", "clang-tidy"):
        if shutil.which(name):
            return name
    sys.exit("clang-tidy is not installed (deps.lock, group ci)")


def closure(path, texts):
    """The file and every project header that it reaches; `texts` caches contents."""
    todo, seen = [path], set()
    while todo:
        current = todo.pop()
        if current in seen:
            continue
        seen.add(current)
        if current not in texts:
            texts[current] = current.read_bytes()
        for name in INCLUDE.findall(texts[current]):
            for folder in (ROOT / "src", current.parent):
                header = folder / name.decode()
                if header.is_file():
                    todo.append(header)
                    break
    return sorted(seen)


def check(tool, build, path):
    result = subprocess.run([tool, "--quiet", "--extra-arg=-Wno-unknown-warning-option", "-p", build, str(path)], capture_output=True, text=True)
    return result.returncode == 0, result.stdout


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    build, folders = sys.argv[1], [ROOT / f for f in sys.argv[2:] or ["src"]]
    tool = find_tool()
    salt = subprocess.run([tool, "--version"], capture_output=True).stdout + (ROOT / ".clang-tidy").read_bytes()
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "nanoflow-tidy"
    cache.mkdir(parents=True, exist_ok=True)

    texts, jobs = {}, []
    for entry in json.loads((pathlib.Path(build) / "compile_commands.json").read_text()):
        path = pathlib.Path(entry["file"])
        if path.suffix != ".cc" or not path.is_file() or not any(path.is_relative_to(f) for f in folders):
            continue
        digest = hashlib.sha256(salt)
        for part in closure(path, texts):
            digest.update(str(part.relative_to(ROOT)).encode() + b"\0" + texts[part])
        stamp = cache / digest.hexdigest()
        if not stamp.exists():
            jobs.append((path, stamp))

    print(f"{len(jobs)} files to check", flush=True)
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = {pool.submit(check, tool, build, path): (path, stamp) for path, stamp in jobs}
        for done in concurrent.futures.as_completed(runs):
            path, stamp = runs[done]
            clean, output = done.result()
            if clean:
                stamp.touch()
            else:
                failed += 1
                print(output, flush=True)
    if failed:
        sys.exit(f"{failed} files have findings")


if __name__ == "__main__":
    main()
