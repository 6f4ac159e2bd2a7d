#!/usr/bin/env python3
"""Runs clang-tidy (.clang-tidy) over the C++ files of a build tree, only on those whose text, headers, flags or checks
changed since they were clean.

  tools/run_tidy.py build/ci               every .cc that build/ci/compile_commands.json compiles
  tools/run_tidy.py build/ci src/engine    those below a folder

Files that are compiled alike are checked in batches, each joined into one source: most of clang-tidy's time goes into
the standard library's headers, and a batch pays for them once. Files whose file-local names would meet are kept apart,
and a batch that does not compile as one is halved until it does. Findings name the file and line they come from.
Tests are checked too, by fewer checks (NOT_IN_TESTS): the path-sensitive analyzer is the slow half. A file that is
compiled several ways is checked as it is compiled first. CUDA files (.cu) and coroutines (COROUTINES) are not checked.

Clean files are remembered by hash in $XDG_CACHE_HOME/nanoflow-tidy (default ~/.cache/nanoflow-tidy).
"""
import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = ("src", "tests", "bench")
INCLUDE = re.compile(rb'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)

# Lines in a batch: small enough that the last batches keep all cores busy.
BATCH_LINES = 2500

# The analyzer's budget per function. "deep", its default, takes three times as long.
ANALYZER = ["-Xclang", "-analyzer-config", "-Xclang", "mode=shallow"]

# What does not pay in tests: they need not be fast, they run under the sanitizers, and their sizes are small.
NOT_IN_TESTS = ("-clang-analyzer-*,-performance-*,-cppcoreguidelines-*,"
                "-bugprone-implicit-widening-of-multiplication-result,-bugprone-narrowing-conversions,"
                "-bugprone-exception-escape")

# Coroutines, which clang 14 cannot compile with libstdc++ (it has <experimental/coroutine> only).
COROUTINES = {ROOT / "src/client/connection.cc", ROOT / "src/client/load_client.cc"}

# What g++'s command lines have and clang, or a source that is elsewhere, must not see.
DROPPED = re.compile(r"-(O.|g\d?|c|Werror|Wno-psabi|Wno-restrict|fPI[CE])")

# What a file keeps for itself: macros, and what an unnamed namespace or `static` hides (clang-format puts those at a
# line's start).
LOCAL_TYPE = re.compile(r"^(?:template <.*> )?(?:struct|class|enum|enum class|union|using) (\w+)")
LOCAL_VALUE = re.compile(r"^(?!TEST|using|template|namespace|return)[A-Za-z].*?(?<!:)\b(\w+)"
                         r"(?:\[\w*\])*\s*(?:[({=;]|$)")
MACRO = re.compile(r"^\s*#\s*define\s+(\w+)")


@dataclasses.dataclass
class Source:
    path: pathlib.Path
    flags: tuple
    stamp: pathlib.Path
    text: str

    def local_names(self):
        names, depth = set(), 0
        for line in self.text.splitlines():
            if line.startswith("namespace {"):
                depth += 1
            elif line.startswith("}  // namespace") and line.split() == ["}", "//", "namespace"]:
                depth -= 1
            elif match := MACRO.match(line):
                names.add(match[1])
            elif depth > 0 or line.startswith(("static ", "int main(")):
                if match := LOCAL_TYPE.match(line) or LOCAL_VALUE.match(line):
                    names.add(match[1])
        return names


def find_tool():
    for name in ("clang-tidy-14", "clang-tidy-18", "clang-tidy-19", "clang-tidy"):
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


def flags_of(entry):
    """The entry's flags without its compiler, input, output and what DROPPED names."""
    words = entry["arguments"] if "arguments" in entry else shlex.split(entry["command"])
    words = words[next(i for i, word in enumerate(words) if word.startswith("-")):]
    output = words.index("-o")
    del words[output:output + 2]
    return tuple(word for word in words if word != entry["file"] and not DROPPED.fullmatch(word))


def sources_to_check(build, folders, salt, cache):
    """Those of the build tree below `folders` that are not known to be clean."""
    texts, found, seen = {}, [], set()
    for entry in json.loads((build / "compile_commands.json").read_text()):
        path = pathlib.Path(entry["file"])
        wanted = path.suffix == ".cc" and path.is_file() and any(path.is_relative_to(f) for f in folders)
        if path in seen or path in COROUTINES or not wanted:
            continue
        seen.add(path)
        flags = flags_of(entry)
        # The same text and flags are the same in another clone.
        digest = hashlib.sha256(salt + " ".join(flags).replace(str(ROOT), "").encode())
        for part in closure(path, texts):
            digest.update(str(part.relative_to(ROOT)).encode() + b"\0" + texts[part])
        stamp = cache / digest.hexdigest()
        if not stamp.exists():
            found.append(Source(path, flags, stamp, texts[path].decode()))
    return sorted(found, key=lambda source: source.path)


def is_test(source):
    return source.path.name.endswith("_test.cc") or source.path.is_relative_to(ROOT / "tests")


def batches_of(sources):
    """Lists of sources with the same flags, no file-local name in common, and at most BATCH_LINES lines or one file."""
    open_batches = []  # of (key, sources, names, lines)
    for source in sources:
        names, lines = source.local_names(), source.text.count("\n")
        key = (source.flags, is_test(source), source.path.relative_to(ROOT).parts[0])
        for batch in open_batches:
            if batch["key"] == key and batch["lines"] + lines <= BATCH_LINES and not batch["names"] & names:
                batch["sources"].append(source)
                batch["names"] |= names
                batch["lines"] += lines
                break
        else:
            open_batches.append({"key": key, "sources": [source], "names": names, "lines": lines})
    open_batches.sort(key=lambda batch: -batch["lines"])
    return [batch["sources"] for batch in open_batches]


def located(output, joined, sources):
    """`output` with the places in the joined file as places in its sources."""
    starts, line = [], 1
    for source in sources:
        starts.append((line, source.path))
        line += source.text.count("\n") + 1

    def place(match):
        number = int(match[1])
        start, path = next((s, p) for s, p in reversed(starts) if s <= number)
        return f"{path.relative_to(ROOT)}:{number - start + 1}:"

    return re.sub(re.escape(str(joined)) + r":(\d+):", place, output)


def check(tool, sources, work):
    """Whether all of `sources`, as one file, are clean, and the findings."""
    joined = work / (sources[0].stamp.name + ".cc")
    joined.write_text("\n".join(source.text for source in sources))
    options = [f"--config-file={ROOT / '.clang-tidy'}", "--quiet"]
    if is_test(sources[0]):
        options.append(f"--checks={NOT_IN_TESTS}")
    flags = [*sources[0].flags, "-Wno-unknown-warning-option", *ANALYZER]
    for folder in sorted({str(source.path.parent) for source in sources}):
        flags += ["-iquote", folder]
    result = subprocess.run([tool, *options, str(joined), "--", *flags], capture_output=True, text=True)
    output = located(result.stdout, joined, sources)
    if "[clang-diagnostic-error" in output and len(sources) > 1:
        print("checked apart, for as one they do not compile (a name too many?):",
              *(source.path.relative_to(ROOT) for source in sources), flush=True)
        middle = len(sources) // 2
        results = [check(tool, half, work) for half in (sources[:middle], sources[middle:])]
        return all(clean for clean, _ in results), "".join(text for _, text in results)
    if result.returncode == 0:
        for source in sources:
            source.stamp.touch()
        return True, ""
    return False, output or result.stderr


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    build, folders = pathlib.Path(sys.argv[1]), [ROOT / folder for folder in sys.argv[2:] or SOURCES]
    tool = find_tool()
    salt = subprocess.run([tool, "--version"], capture_output=True).stdout
    salt += (ROOT / ".clang-tidy").read_bytes() + pathlib.Path(__file__).read_bytes()
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "nanoflow-tidy"
    cache.mkdir(parents=True, exist_ok=True)

    sources = sources_to_check(build, folders, salt, cache)
    print(f"{len(sources)} files to check", flush=True)
    failed = 0
    with tempfile.TemporaryDirectory() as work, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = [pool.submit(check, tool, batch, pathlib.Path(work)) for batch in batches_of(sources)]
        for done in concurrent.futures.as_completed(runs):
            clean, output = done.result()
            if not clean:
                failed += 1
                print(output, flush=True)
    if failed:
        sys.exit("clang-tidy has findings")


if __name__ == "__main__":
    main()
