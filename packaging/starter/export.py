# Writes the trained weights as a Hugging Face folder and as GGUF (Q8_0 matrices, F32 norms). Invariant: both hold the same
# tokenizer, template and weights.
import json
from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).resolve().parent
NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def gguf_name(name: str) -> str:
    """model.layers.0.mlp.up_proj.weight -> blk.0.ffn_up.weight."""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def write_hf(folder: Path, weights: dict, shape: dict, tokenizer_json: Path):
    """A folder that transformers opens."""
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
    config = Qwen3Config(**shape, tie_word_embeddings=True, eos_token_id=2, pad_token_id=0, bos_token_id=None)
    model = Qwen3ForCausalLM(config)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"names differ from transformers: {missing} {unexpected}")
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_json), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = (HERE / "chat_template.jinja").read_text()
    tokenizer.save_pretrained(folder)


def write_gguf(path: Path, weights: dict, shape: dict, tokenizer_json: Path):
    """One file for hyprstream."""
    out = gguf.GGUFWriter(path, "qwen3")
    out.add_name("hyprstream-starter")
    out.add_description("The small starter model that ships with hyprstream, trained on text written by the project.")
    out.add_license("AGPL-3.0-or-later")
    out.add_context_length(shape["max_position_embeddings"])
    out.add_embedding_length(shape["hidden_size"])
    out.add_block_count(shape["num_hidden_layers"])
    out.add_feed_forward_length(shape["intermediate_size"])
    out.add_head_count(shape["num_attention_heads"])
    out.add_head_count_kv(shape["num_key_value_heads"])
    out.add_key_length(shape["head_dim"])
    out.add_value_length(shape["head_dim"])
    out.add_layer_norm_rms_eps(shape["rms_norm_eps"])
    out.add_rope_freq_base(shape["rope_theta"])
    out.add_vocab_size(shape["vocab_size"])
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    described = json.loads(tokenizer_json.read_text())
    by_id = {index: token for token, index in described["model"]["vocab"].items()}
    by_id |= {added["id"]: added["content"] for added in described["added_tokens"]}
    tokens = [by_id[index] for index in range(shape["vocab_size"])]
    kinds = [gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL for token in tokens]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in described["model"]["merges"]]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list(tokens)
    out.add_token_types(kinds)
    out.add_token_merges(merges)
    out.add_eos_token_id(tokens.index("<|im_end|>"))
    out.add_pad_token_id(tokens.index("<|endoftext|>"))
    out.add_add_bos_token(False)
    out.add_chat_template((HERE / "chat_template.jinja").read_text())
    for name, value in weights.items():
        array = value.detach().numpy().astype(np.float32)
        if array.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            out.add_tensor(gguf_name(name), gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            out.add_tensor(gguf_name(name), array)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def read_gguf_weights(path: Path) -> dict:
    """{transformers' name: float32 tensor} as the quantised file has them."""
    import torch
    back = {}
    short = {value: key for key, value in NAMES.items()}
    for tensor in gguf.GGUFReader(path).tensors:
        parts = tensor.name.split(".")
        name = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}.get(tensor.name)
        name = name or f"model.layers.{parts[1]}.{short[parts[2]]}.weight"
        back[name] = torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
    return back
