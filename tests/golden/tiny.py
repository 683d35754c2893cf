#!/usr/bin/env python3
# Makes tests/golden/tiny/: a random model with a tokenizer and a chat template, for whole-system tests.
# Invariant: the same model as Hugging Face folder (bf16) and as GGUF (q8_0 matrices); its likeliest token is always
# printable, so greedy text is readable nonsense that goes on until max_tokens.
"""Write the model that whole-system tests talk to.

usage: tiny.py [OUT]      needs the PyPI packages torch, transformers, tokenizers, safetensors, gguf, numpy
"""
import json
import shutil
import sys
from pathlib import Path

import gguf
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import archs

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = [
    "the sea and the wind and the captain of the ship", "what is the answer to this question",
    "one two three four five six seven eight nine ten", "hello there, how are you today",
]
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
TEMPLATE = (
    "{%- if tools %}<|im_start|>system\nTools: {{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTEXT = 65536


def tokenizer():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tok.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=317, initial_alphabet=alphabet, show_progress=False))
    tok.add_special_tokens([AddedToken(t, special=True) for t in SPECIALS])
    return tok


def tokens_of(tok):
    return [tok.id_to_token(i) for i in range(tok.get_vocab_size())]


def mute_unprintable(state, tok):
    """Logit 0 for what is not a run of ASCII letters and spaces; the likeliest of the others is above 0."""
    head = state["lm_head.weight"]
    for i, token in enumerate(tokens_of(tok)):
        if not all(c.isascii() and c.isalpha() or c == "\u0120" for c in token):
            head[i] = 0.0


def golden(model, tok):
    """What float32 transformers says on the folder: 48 greedy tokens and the log-probability of each token so far."""
    prompt = "what is the answer"  # never a near tie between the two likeliest tokens
    ids = tok.encode(prompt).ids
    with torch.no_grad():
        tokens = model.generate(torch.tensor([ids]), max_new_tokens=48, do_sample=False)[0]
        logprobs = model(tokens[None]).logits[0].double().log_softmax(-1)
    scored = [logprobs[i - 1, tokens[i]].item() for i in range(1, len(tokens))]
    greedy = tokens[len(ids):].tolist()
    return {"prompt": prompt, "prompt_tokens": ids, "greedy_tokens": greedy, "greedy_text": tok.decode(greedy),
            "logprobs": [round(x, 6) for x in scored]}


def main():
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "tiny"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    tok = tokenizer()
    ids = {t: tok.token_to_id(t) for t in SPECIALS}
    fields = archs.base(vocab_size=tok.get_vocab_size(), head_dim=32, num_attention_heads=4, num_key_value_heads=2,
                        max_position_embeddings=CONTEXT, rms_norm_eps=1e-6, bos_token_id=None,
                        eos_token_id=ids["<|im_end|>"], rope_parameters=archs.rope(theta=1000000.0))
    config, model, state = archs.build("Qwen3", fields, 42)
    with torch.no_grad():
        mute_unprintable(state, tok)  # the tensors are the model's own, so the model is muted too

    folder = out / "tiny-hf"
    archs.write_folder(folder, "Qwen3", config, state, torch.bfloat16)
    tok.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|im_end|>",
                "model_max_length": CONTEXT, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")

    (out / "golden.json").write_text(json.dumps(golden(model, tok)) + "\n")

    def metadata(w):
        kinds = gguf.TokenType
        tokens = tokens_of(tok)
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("qwen2")
        w.add_token_list(tokens)
        w.add_token_types([kinds.CONTROL if t in SPECIALS else kinds.NORMAL for t in tokens])
        w.add_token_merges([" ".join(m) for m in json.loads(tok.to_str())["model"]["merges"]])
        w.add_eos_token_id(ids["<|im_end|>"])
        w.add_add_bos_token(False)
        w.add_chat_template(TEMPLATE)

    archs.write_gguf(out / "tiny.gguf", "tiny", "Qwen3", config, state, gguf.GGMLQuantizationType.Q8_0, metadata)


if __name__ == "__main__":
    main()
