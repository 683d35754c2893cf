# The Qwen3 forward pass over a dict of parameters, in bfloat16 over float32 weights, for packed rows. Invariant: names and
# arithmetic are those of transformers' Qwen3ForCausalLM, so that the weights load there unchanged.
import torch
import torch.nn.functional as F

SHAPE = {"vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": 5, "intermediate_size": 768, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "rope_theta": 10000.0}


def new_parameters(shape: dict, seed: int) -> dict:
    """{name: float32 parameter}, as transformers names them."""
    draw = torch.Generator().manual_seed(seed)
    hidden, ffn, head = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    q, kv = shape["num_attention_heads"] * head, shape["num_key_value_heads"] * head

    def matrix(rows, cols, scale=0.02):
        return torch.randn(rows, cols, generator=draw) * scale

    out = {"model.embed_tokens.weight": matrix(shape["vocab_size"], hidden), "model.norm.weight": torch.ones(hidden)}
    deep = 0.02 / (2 * shape["num_hidden_layers"]) ** 0.5
    for layer in range(shape["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        out |= {at + "input_layernorm.weight": torch.ones(hidden), at + "post_attention_layernorm.weight": torch.ones(hidden),
                at + "self_attn.q_norm.weight": torch.ones(head), at + "self_attn.k_norm.weight": torch.ones(head),
                at + "self_attn.q_proj.weight": matrix(q, hidden), at + "self_attn.k_proj.weight": matrix(kv, hidden),
                at + "self_attn.v_proj.weight": matrix(kv, hidden), at + "self_attn.o_proj.weight": matrix(hidden, q, deep),
                at + "mlp.gate_proj.weight": matrix(ffn, hidden), at + "mlp.up_proj.weight": matrix(ffn, hidden),
                at + "mlp.down_proj.weight": matrix(hidden, ffn, deep)}
    return {name: value.requires_grad_() for name, value in out.items()}


def angles(shape: dict, length: int):
    """cos, sin: [length, head_dim / 2]."""
    head = shape["head_dim"]
    frequency = shape["rope_theta"] ** (-torch.arange(0, head, 2) / head)
    turn = torch.arange(length)[:, None] * frequency[None]
    return turn.cos().bfloat16(), turn.sin().bfloat16()


def turned(x, cos, sin):
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def hidden_states(weights: dict, shape: dict, tokens, mask, cos, sin):
    """tokens: [rows, length]; mask: [rows, 1, length, length], true where a token may look. Returns [rows, length, hidden]."""
    rows, length = tokens.shape
    heads, groups, head, eps = shape["num_attention_heads"], shape["num_key_value_heads"], shape["head_dim"], shape["rms_norm_eps"]
    w = {name: value.bfloat16() for name, value in weights.items()}
    x = F.embedding(tokens, w["model.embed_tokens.weight"])
    for layer in range(shape["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        a = F.rms_norm(x, x.shape[-1:], w[at + "input_layernorm.weight"], eps)
        qkv = F.linear(a, torch.cat([w[at + f"self_attn.{n}_proj.weight"] for n in "qkv"]))
        q, k, v = (part.view(rows, length, -1, head) for part in qkv.split((heads * head, groups * head, groups * head), -1))
        q = turned(F.rms_norm(q, (head,), w[at + "self_attn.q_norm.weight"], eps).transpose(1, 2), cos, sin)
        k = turned(F.rms_norm(k, (head,), w[at + "self_attn.k_norm.weight"], eps).transpose(1, 2), cos, sin)
        k, v = (z.repeat_interleave(heads // groups, 1) for z in (k, v.transpose(1, 2)))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + F.linear(o.transpose(1, 2).reshape(rows, length, -1), w[at + "self_attn.o_proj.weight"])
        a = F.rms_norm(x, x.shape[-1:], w[at + "post_attention_layernorm.weight"], eps)
        gate, up = F.linear(a, torch.cat((w[at + "mlp.gate_proj.weight"], w[at + "mlp.up_proj.weight"]))).chunk(2, -1)
        x = x + F.linear(F.silu(gate) * up, w[at + "mlp.down_proj.weight"])
    return F.rms_norm(x, x.shape[-1:], w["model.norm.weight"], eps), w["model.embed_tokens.weight"]


def answer_loss(weights, shape, tokens, documents, at, targets, keep, cos, sin):
    """Mean cross-entropy at the flat positions `at` with `targets`, weighted by keep."""
    length = tokens.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    mask = (documents[:, :, None] == documents[:, None, :])[:, None] & causal
    x, head = hidden_states(weights, shape, tokens, mask, cos, sin)
    logits = F.linear(x.reshape(-1, x.shape[-1])[at], head).float()
    return (F.cross_entropy(logits, targets, reduction="none") * keep).sum() / keep.sum()
