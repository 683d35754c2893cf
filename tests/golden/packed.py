#!/usr/bin/env python3
# Makes tests/golden/packed/: a random model in every quantised format, with the logits that transformers computes.
# Invariant: the logits are float32 transformers on exactly the weights that the `gguf` package decodes from the file.
"""Write a small random model whose matrices have all quantised formats, and its golden logits.

usage: packed.py [OUT]      needs the PyPI packages torch, transformers, safetensors, gguf, numpy

OUT holds model.gguf and golden.json with golden.f32, as archs.py writes them.
"""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as T
from gguf import quants

import archs

# Formats that the package cannot quantise to: bytes of a block, where its scale is, and that of its minimums.
BLOCKS = {
    T.Q2_K: (84, 80, 82), T.Q3_K: (110, 108, None), T.Q4_K: (144, 0, 2), T.Q5_K: (176, 0, 2), T.Q6_K: (210, 208, None),
    T.IQ4_NL: (18, 0, None), T.IQ4_XS: (136, 0, None),
}
LAYERS = [
    {"q_proj": T.Q4_K, "k_proj": T.Q5_K, "v_proj": T.Q6_K, "o_proj": T.Q3_K, "gate_proj": T.Q2_K, "up_proj": T.IQ4_XS,
     "down_proj": T.Q4_K},
    {"q_proj": T.Q4_0, "k_proj": T.Q4_1, "v_proj": T.Q5_0, "o_proj": T.Q5_1, "gate_proj": T.Q8_0, "up_proj": T.IQ4_NL,
     "down_proj": T.MXFP4},
]


def half(value):
    return np.full((1, 1), value, dtype=np.float16).view(np.uint8)


def blocks_of(kind, shape, std, rng):
    """Random blocks whose values have mean 0, about, and the given standard deviation."""
    size, at, min_at = BLOCKS[kind]
    count = shape[0] * shape[1] // (32 if kind == T.IQ4_NL else 256)
    data = rng.integers(0, 256, (count, size), dtype=np.uint8)

    def with_scales(scale, minimum):
        data[:, at:at + 2] = half(scale)
        if min_at is not None:
            data[:, min_at:min_at + 2] = half(minimum)
        return quants.dequantize(data, kind)

    minimum = 0.0
    if min_at is not None:
        minimum = with_scales(1.0, 0.0).mean() / -with_scales(0.0, 1.0).mean()
    scale = std / with_scales(1.0, minimum).std()
    with_scales(scale, scale * minimum)
    return data.reshape(shape[0], -1)


def packed(kind, weight, rng):
    """Bytes of rows in a format, and what they decode to."""
    weight = weight.numpy()
    if kind in BLOCKS:
        data = blocks_of(kind, weight.shape, float(weight.std()), rng)
    else:
        data = quants.quantize(weight, kind)
    return data, torch.from_numpy(quants.dequantize(data, kind).reshape(weight.shape).astype(np.float32))


def formats(state):
    """The format of each matrix, by its name."""
    for name in state:
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            yield name, T.Q8_0 if "embed" in name else T.Q6_K
        elif name.endswith("proj.weight"):
            yield name, LAYERS[int(name.split(".")[2])][name.split(".")[-2]]


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "packed"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    fields = archs.base(hidden_size=256, intermediate_size=256, vocab_size=107, head_dim=64, rms_norm_eps=1e-6,
                        rope_parameters=archs.rope(theta=1000000.0))
    config, model, state = archs.build("Qwen3", fields, 300)
    rng = np.random.default_rng(300)
    bytes_of = {}
    with torch.no_grad():
        for name, kind in formats(state):
            data, values = packed(kind, state[name], rng)
            bytes_of[name] = (data, kind)
            state[name].copy_(values)  # the model's own tensor
    archs.write_gguf(out / "model.gguf", "packed", "Qwen3", config, state, archs.F32, packed=bytes_of)
    archs.write_golden(out, config, model, 300)


if __name__ == "__main__":
    main()
