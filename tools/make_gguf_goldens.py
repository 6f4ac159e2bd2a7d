"""Writes tests/fixtures/gguf/quants.gguf: blocks of every GGML type that NanoFlow reads, beside what gguf makes of them.

For each type there are a tensor "<type>" of blocks and a tensor "<type>.f32" with gguf.quants.dequantize's result. Half of
the blocks of a type that gguf can quantise are quantised normal noise, all others are random bits with finite scales. The
metadata holds one value of every kind. Run: python tools/make_gguf_goldens.py (needs the packages gguf and numpy).
"""
import pathlib

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T, GGUFValueType as V

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/gguf/quants.gguf"
ROWS, COLS = 4, 256
# Byte offsets of the half-precision scales in a block.
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}


def random_blocks(rng, kind, rows):
    """[rows, bytes of COLS elements] uint8: any bits, scales finite (subnormal, negative and zero ones included)."""
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * COLS // elements, size), dtype=np.uint8)
    for offset in SCALES[kind]:
        scales = rng.standard_normal(len(blocks)).astype(np.float16)
        scales[::5] = (rng.integers(0, 1024, len(scales[::5])).astype(np.uint16)).view(np.float16)  # subnormal
        blocks[:, offset:offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


def blocks_of(rng, kind):
    if kind not in SCALES:  # 16-bit floats: random bits cover subnormals and infinities; NaNs have no value to compare
        bits = rng.integers(0, 1 << 16, (ROWS, COLS)).astype(np.uint16)
        bits[0, :8] = [0, 0x8000, 1, 0x03FF, 0x0400, 0x3C00, 0x7BFF, 0x7C00 if kind == T.F16 else 0x7F80]
        return np.where(np.isnan(gguf.quants.dequantize(bits.view(np.uint8), kind)), 0x3C00, bits).astype(np.uint16).view(np.uint8)
    try:
        first = gguf.quants.quantize(rng.standard_normal((ROWS // 2, COLS)).astype(np.float32), kind)
    except NotImplementedError:  # K types: gguf only reads them
        first = random_blocks(rng, kind, ROWS // 2)
    return np.concatenate([first.reshape(ROWS // 2, -1), random_blocks(rng, kind, ROWS // 2)])


def add_metadata(writer):
    for name, value, kind in [("u8", 255, V.UINT8), ("i8", -128, V.INT8), ("u16", 65535, V.UINT16), ("i16", -32768, V.INT16),
                              ("u32", 4294967295, V.UINT32), ("i32", -2147483648, V.INT32), ("u64", 2**63 - 1, V.UINT64),
                              ("i64", -2**63, V.INT64), ("f32", 0.5, V.FLOAT32), ("f64", 0.1, V.FLOAT64),
                              ("bool", True, V.BOOL), ("string", "Grüße", V.STRING)]:
        writer.add_key_value("test." + name, value, kind)
    for name, value in [("ints", [1, -2, 3]), ("floats", [0.5, -1.5]), ("strings", ["a", "", "世界"]), ("bools", [True, False])]:
        writer.add_array("test." + name, value)


def main():
    rng = np.random.default_rng(20)
    writer = gguf.GGUFWriter(OUT, "test")
    add_metadata(writer)
    for kind in [T.F16, T.BF16, *SCALES]:
        blocks = blocks_of(rng, kind)
        values = gguf.quants.dequantize(blocks, kind).astype(np.float32)
        assert values.shape == (ROWS, COLS) and not np.isnan(values).any()
        writer.add_tensor(kind.name, blocks, raw_dtype=kind)
        writer.add_tensor(kind.name + ".f32", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
