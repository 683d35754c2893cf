#!/usr/bin/env python3
"""Writes kernels/tests/fixtures/*.bin: blocks of each weight format and the floats that the `gguf` package decodes.

Invariant: the same seed gives the same files. Needs numpy and gguf; the tests need only the files.
Layout, little-endian: u32 bytes of blocks, the blocks, then one f32 a value.
"""
import pathlib
import struct

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

OUT = pathlib.Path(__file__).resolve().parents[2] / "kernels" / "tests" / "fixtures"
rng = np.random.default_rng(2)


def quantized(kind: T, values: int) -> np.ndarray:
    return quants.quantize(rng.standard_normal((1, values)).astype(np.float32), kind).view(np.uint8).reshape(1, -1)


def random_blocks(block_bytes: int, blocks: int, scales_at: list[int]) -> np.ndarray:
    """Random bytes, with finite f16 scales: the package cannot quantise to these."""
    data = rng.integers(0, 256, (blocks, block_bytes), dtype=np.uint8)
    for at in scales_at:
        data[:, at : at + 2] = (rng.standard_normal((blocks, 1)) / 50).astype(np.float16).view(np.uint8)
    return data.reshape(1, -1)


FILES = {
    "F16": (T.F16, quantized(T.F16, 64)),
    "BF16": (T.BF16, quantized(T.BF16, 64)),
    "Q8_0": (T.Q8_0, quantized(T.Q8_0, 256)),
    "Q4_0": (T.Q4_0, quantized(T.Q4_0, 256)),
    "Q4_K": (T.Q4_K, random_blocks(144, 3, [0, 2])),
    "Q5_K": (T.Q5_K, random_blocks(176, 3, [0, 2])),
    "Q6_K": (T.Q6_K, random_blocks(210, 3, [208])),
    "Q4_1": (T.Q4_1, quantized(T.Q4_1, 256)),
    "Q5_0": (T.Q5_0, quantized(T.Q5_0, 256)),
    "Q5_1": (T.Q5_1, quantized(T.Q5_1, 256)),
    "MXFP4": (T.MXFP4, np.concatenate([quantized(T.MXFP4, 256), random_blocks(17, 16, [])], axis=1)),
    "Q2_K": (T.Q2_K, random_blocks(84, 3, [80, 82])),
    "Q3_K": (T.Q3_K, random_blocks(110, 3, [108])),
    "IQ4_NL": (T.IQ4_NL, random_blocks(18, 8, [0])),
    "IQ4_XS": (T.IQ4_XS, random_blocks(136, 3, [0])),
}

OUT.mkdir(parents=True, exist_ok=True)
for name, (kind, blocks) in FILES.items():
    values = quants.dequantize(blocks, kind).astype("<f4")
    data = blocks.tobytes()
    (OUT / f"{name}.bin").write_bytes(struct.pack("<I", len(data)) + data + values.tobytes())
    print(name, len(data), values.size)
