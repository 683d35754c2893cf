#!/usr/bin/env python3
# Makes tests/golden/archs/: small random models of each architecture with the logits that transformers computes.
# Invariant: every weight is a bf16 number, so safetensors and GGUF (each bf16 or f32) hold the same model exactly,
# and the logits are float32 transformers on exactly these weights.
"""Write small random models (Hugging Face folder and GGUF) and their golden logits.

usage: archs.py [OUT]      needs the PyPI packages torch, transformers, safetensors, gguf, numpy

Each NAME/ holds hf/config.json, hf/model.safetensors, model.gguf and golden.json:
  {"vocab": V, "tokens": [[..], ..], "logits": "golden.f32"}
golden.f32 is raw little-endian float32: the logits [tokens, vocab] of each sequence, one after the other.
"""
import json
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

torch.set_num_threads(1)
LENGTHS = (48, 41)
F32 = gguf.GGMLQuantizationType.F32
BF16 = gguf.GGMLQuantizationType.BF16


def base(**more):
    """Shape shared by all models; a row of MODELS changes what it is about."""
    shape = dict(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        vocab_size=203, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1,
        eos_token_id=2, pad_token_id=None,
    )
    shape.update(more)
    return shape


def rope(kind="default", theta=10000.0, **more):
    return dict(rope_type=kind, rope_theta=theta, **more)


# name: (config class, fields, dtype of the safetensors, dtype of the GGUF's matrices)
MODELS = {
    "llama": ("Llama", base(num_hidden_layers=3, intermediate_size=64, rope_parameters=rope()), torch.float32, BF16),
    "llama3-rope": ("Llama", base(vocab_size=223, rope_parameters=rope(
        "llama3", 500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=32)), torch.bfloat16, F32),
    "llama-linear": ("Llama", base(vocab_size=199, rope_parameters=rope("linear", factor=4.0)), torch.bfloat16, BF16),
    "llama-yarn": ("Llama", base(vocab_size=229, max_position_embeddings=128, rope_parameters=rope(
        "yarn", factor=4.0, original_max_position_embeddings=32)), torch.bfloat16, BF16),
    "mistral": ("Mistral", base(vocab_size=227, sliding_window=13, head_dim=16, rope_parameters=rope()),
                torch.bfloat16, BF16),
    "qwen2": ("Qwen2", base(vocab_size=251, tie_word_embeddings=True, rms_norm_eps=1e-6,
                            rope_parameters=rope(theta=1000000.0)), torch.bfloat16, BF16),
    "qwen3": ("Qwen3", base(vocab_size=239, head_dim=32, tie_word_embeddings=True, rms_norm_eps=1e-6,
                            num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
                            rope_parameters=rope(theta=1000000.0)), torch.bfloat16, BF16),
}


def randomize(model, seed):
    """Weights with enough spread that logits differ by several units and a wrong rotation shows."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=g)
            if "norm" in name:
                value = 1.0 + 0.3 * r
            elif name.endswith("bias"):
                value = 0.5 * r
            elif "embed" in name:
                value = 0.6 * r
            elif "q_proj" in name or "k_proj" in name:
                value = r * (1.4 / p.shape[1] ** 0.5)
            else:
                value = r / p.shape[1] ** 0.5
            p.copy_(value.to(torch.bfloat16).to(torch.float32))


def interleave(w, heads):
    """Rows of q or k from half-split to interleaved rotation, which `llama` in GGUF uses: (i, i+d/2) -> (2i, 2i+1)."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def llama3_factors(config, head_dim):
    """The divisors of each frequency: what a GGUF carries as `rope_freqs.weight`."""
    p = config.rope_parameters
    low = p["original_max_position_embeddings"] / p["low_freq_factor"]
    high = p["original_max_position_embeddings"] / p["high_freq_factor"]
    out = []
    for i in range(head_dim // 2):
        wavelength = 2 * np.pi * p["rope_theta"] ** (2 * i / head_dim)
        if wavelength < high:
            out.append(1.0)
        elif wavelength > low:
            out.append(p["factor"])
        else:
            smooth = (p["original_max_position_embeddings"] / wavelength - p["low_freq_factor"]) / (
                p["high_freq_factor"] - p["low_freq_factor"])
            out.append(1.0 / ((1 - smooth) / p["factor"] + smooth))
    return np.array(out, dtype=np.float32)


GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name):
    name = name.removeprefix("model.")
    whole = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    if name in whole:
        return whole[name]
    _, layer, rest = name.split(".", 2)
    module, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{GGUF_NAMES[module]}.{kind}"


def write_gguf(path, name, family, config, state, form, more=lambda w: None, packed={}):
    """`form` is the type of the matrices (norms and biases stay f32); `more` adds metadata, such as a tokenizer; `packed`
    has the bytes and type of matrices that have one of their own."""
    arch = {"Llama": "llama", "Mistral": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3"}[family]
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    w = gguf.GGUFWriter(path, arch)
    w.add_name(name)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_vocab_size(config.vocab_size)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_dimension_count(head_dim)
    p = config.rope_parameters
    w.add_rope_freq_base(p["rope_theta"])
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    if getattr(config, "sliding_window", None) and family == "Mistral":
        w.add_sliding_window(config.sliding_window)
    if p["rope_type"] == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(p["factor"])
    if p["rope_type"] == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(p["factor"])
        w.add_rope_scaling_orig_ctx_len(p["original_max_position_embeddings"])
    if p["rope_type"] == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(config, head_dim))
    for key, tensor in state.items():
        if key in packed:
            data, kind = packed[key]
            w.add_tensor(gguf_name(key), data, raw_dtype=kind)
            continue
        value = tensor.float().numpy()
        if arch == "llama" and ".q_proj." in key:
            value = interleave(value, config.num_attention_heads)
        if arch == "llama" and ".k_proj." in key:
            value = interleave(value, config.num_key_value_heads)
        value = np.ascontiguousarray(value)
        if value.ndim == 2 and form != F32:
            w.add_tensor(gguf_name(key), gguf.quants.quantize(value, form), raw_dtype=form)
        else:
            w.add_tensor(gguf_name(key), value)
    more(w)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def build(family, fields, seed):
    config = getattr(transformers, family + "Config")(**fields)
    config._attn_implementation = "eager"
    model = getattr(transformers, family + "ForCausalLM")(config).eval().float()
    randomize(model, seed)
    model.tie_weights()
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    if config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return config, model, state


def write_folder(folder, family, config, state, dtype):
    folder.mkdir(parents=True)
    save_file({k: v.to(dtype).clone() for k, v in state.items()}, folder / "model.safetensors",
              metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    config.architectures = [family + "ForCausalLM"]
    config.dtype = str(dtype).removeprefix("torch.")
    config.save_pretrained(folder)


def write_golden(folder, config, model, seed):
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(3, config.vocab_size, n).tolist() for n in LENGTHS]
    with torch.no_grad():
        logits = [model(torch.tensor([s])).logits[0].float().numpy() for s in sequences]
    with open(folder / "golden.f32", "wb") as f:
        for l in logits:
            f.write(l.astype("<f4").tobytes())
    with open(folder / "golden.json", "w") as f:
        json.dump({"vocab": config.vocab_size, "tokens": sequences, "logits": "golden.f32"}, f)
        f.write("\n")
    return logits


def make(out, index, name, family, fields, dtype, form):
    config, model, state = build(family, fields, 100 + index)
    folder = out / name
    write_folder(folder / "hf", family, config, state, dtype)
    write_gguf(folder / "model.gguf", name, family, config, state, form)

    logits = write_golden(folder, config, model, 7 + index)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    print(f"{name:14s} {size / 1024:6.0f} KiB  logits std {np.std(logits[0]):.2f} max {np.abs(logits[0]).max():.1f}")


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "archs"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for index, (name, (family, fields, dtype, form)) in enumerate(MODELS.items()):
        make(out, index, name, family, fields, dtype, form)


if __name__ == "__main__":
    main()
