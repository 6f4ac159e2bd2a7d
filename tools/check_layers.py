#!/usr/bin/env python3
"""Fails when a file of src/ includes a header that docs/layers.txt does not allow its folder.

Usage: tools/check_layers.py [SOURCE_ROOT]
"""
import pathlib
import re
import sys

INCLUDE = re.compile(r'^\s*#\s*include\s+([<"])([^>"]+)[>"]')
STANDARD = re.compile(r"^[a-z_0-9]+$|^(sys|netinet|arpa)/|^[a-z_0-9]+\.h$")


def read_table(path):
    allowed, external = {}, []
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if not line:
            continue
        name, _, right = line.partition(":")
        if name.startswith("external "):
            external.append((name.split()[1:], right.split()))
        else:
            allowed[name.strip()] = right.split()
    return allowed, external


def folder_of(relative, folders):
    matches = [f for f in folders if str(relative).startswith(f + "/")]
    return max(matches, key=len) if matches else None


def check_file(path, relative, allowed, external):
    folder = folder_of(relative, allowed)
    if folder is None:
        yield f"{relative}: folder is not in docs/layers.txt"
        return
    is_test = "_test" in path.name  # x_test.cc, x_test_support.h, ...: only tests include them
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        header = match.group(2)
        target = folder_of(pathlib.PurePath(header), allowed)
        if target is not None:
            if target != folder and target not in allowed[folder] and "*" not in allowed[folder]:
                yield f"{relative}:{number}: {folder} may not include {header}"
            continue
        for prefixes, owners in external:
            if any(header.startswith(p) for p in prefixes):
                if not ("*" in owners or folder in owners or (is_test and "tests" in owners)):
                    yield f"{relative}:{number}: {folder} may not include {header}"
                break
        else:
            if header != "version.h" and not STANDARD.match(header):
                yield f"{relative}:{number}: {header} is not in docs/layers.txt"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    allowed, external = read_table(root / "docs" / "layers.txt")
    problems = []
    for path in sorted((root / "src").rglob("*")):
        if path.suffix in (".h", ".cc", ".cu", ".cuh"):
            problems += check_file(path, path.relative_to(root / "src"), allowed, external)
    for problem in problems:
        print(problem)
    if not problems:
        print("layers: ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
