#!/usr/bin/env python3
"""Writes daemon/crates/model/tests/fixtures/tokenizers/: small vocabularies as tokenizer.json and GGUF, and the ids that
their own libraries give.

Run with tokenizers 0.23, sentencepiece 0.2 and gguf 0.19 from PyPI. With ../shared/models beside the project, ids of a
real model's tokenizer.json are kept too (the vocabulary itself is not).
"""

import io
import json
import pathlib

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "daemon/crates/model/tests/fixtures/tokenizers"
BOOKS = ROOT.parent / "shared/models/books-2m/tokenizer.json"

CORPUS = """
The daemon owns the machine's processors and serves local language models to every program on the machine.
A client asks, the daemon answers; the answer comes token by token, and a client that hangs up ends its own work.
I've been told that it's there; we'll see, and they'd better not've lost it. 'Tis said, you're right, I'm sure.
Numbers: 1, 12, 123, 1234, 12345, 3.14159, 2026-03-02, 10:34. Prices: 5 €, 7 $, 100%.
def add(a, b):\n    return a + b\n\n\nfor i in range(10):\n\tprint(i, add(i, i))\n
Größe, Äpfel, naïve, café, señor, žluťoučký kůň, Привет мир, нещо на Български, 你好世界, 我想学习, こんにちは, नमस्ते, ជំរាបសួរ.
aaaa aaaaa aaaaaa ======= ------- ...... !!!! ???? ((())) [[[]]] {{{}}}
""" * 3

TEXTS = [
    "",
    " ",
    "   ",
    "\n",
    "\n\n\n \t\r\n x",
    "Hello world",
    " Hello  world ",
    "it's we'LL I'VE 'Tis don't",
    "1 22 333 4444 55555 3.14 １２ ½",
    "café cafe\u0301 Å A\u030a ｆｕｌｌ",
    "Größe Привет 你好世界 こんにちは ជំរាបសួរ 🦙🚀 😶\u200d🌫️",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<s>a</s><|im_start|>user\nHi<|im_end|>\n<tool>x</tool> <unk>",
    "<|im_start|><|im_start|> <|im_end|>   \n\n tail",
    "def f(x):\n\treturn {'a': [1, 2]}  # ok\n",
    "\u0000\u0001\x7f\ufeff\u2581_\u00a0|",
    "x" * 200 + " " * 50 + "y",
]

MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_level(split, digits):
    """Byte-level BPE with marks and one user-defined token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC() if digits == 1 else None
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated", False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS.split("\n"), trainer)
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in MARKS])
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    start = tokenizer.token_to_id("<|im_start|>")
    if digits == 3:
        tokenizer.post_processor = processors.TemplateProcessing("<|im_start|> $A", special_tokens=[("<|im_start|>", start)])
    return tokenizer


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


def write_bpe_gguf(name, pre, tokenizer, bos=None):
    file = json.loads(tokenizer.to_str())
    vocab = file["model"]["vocab"] | {a["content"]: a["id"] for a in file["added_tokens"]}
    tokens = [text for text, _ in sorted(vocab.items(), key=lambda item: item[1])]
    kinds = {a["content"]: 3 if a["special"] else 4 for a in file["added_tokens"]}
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(token, 1) for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in file["model"]["merges"]])
    writer.add_eos_token_id(vocab["<|endoftext|>"])
    if bos:
        writer.add_bos_token_id(vocab[bos])
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def train_spm():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS.strip().split("\n")), model_writer=model, model_type="bpe", vocab_size=650,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.99,
        user_defined_symbols=["<tool>"], control_symbols=["<|im_start|>", "<|im_end|>"], split_digits=True,
        allow_whitespace_only_pieces=True, minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def write_spm_gguf(name, spm):
    kinds = []
    for i in range(len(spm)):
        if spm.is_unknown(i):
            kinds.append(2)
        elif spm.is_control(i):
            kinds.append(3)
        elif spm.is_byte(i):
            kinds.append(6)
        else:
            kinds.append(4 if spm.id_to_piece(i) == "<tool>" else 1)
    writer = gguf.GGUFWriter(OUT / f"{name}.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([spm.id_to_piece(i) for i in range(len(spm))])
    writer.add_token_scores([spm.get_score(i) for i in range(len(spm))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(spm.bos_id())
    writer.add_eos_token_id(spm.eos_id())
    writer.add_unk_token_id(spm.unk_id())
    finish(writer)


def spm_json(spm):
    """The same vocabulary as tokenizer.json, as converters for Llama write it: pair merges by score."""
    vocab = {spm.id_to_piece(i): i for i in range(len(spm))}
    merges = []
    for piece, index in vocab.items():
        if spm.is_control(index) or spm.is_byte(index) or spm.is_unknown(index) or piece == "<tool>":
            continue
        for cut in range(1, len(piece)):
            if piece[:cut] in vocab and piece[cut:] in vocab:
                merges.append((spm.get_score(index), piece[:cut], piece[cut:]))
    merges.sort(key=lambda m: (-m[0], vocab[m[1]], vocab[m[2]]))
    bpe = models.BPE(vocab, [(a, b) for _, a, b in merges], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    marks = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def cases(tokenizer):
    """Ids with marks parsed and not, and with what goes around; and the text that comes back."""
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.encode_special_tokens = True
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        yield {
            "text": text,
            "marks": ids,
            "plain": plain.encode(text, add_special_tokens=False).ids,
            "around": tokenizer.encode(text).ids,
            "back": tokenizer.decode(ids, skip_special_tokens=True),
        }


def write_cases(name, rows):
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (OUT / f"{name}.cases.json").write_text(f"[\n{lines}\n]\n")


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for name, pre, split, digits, bos in [("llama3", "llama-bpe", LLAMA3, 3, "<|im_start|>"), ("qwen2", "qwen2", QWEN2, 1, None)]:
        tokenizer = byte_level(split, digits)
        (OUT / f"{name}.json").write_text(tokenizer.to_str(pretty=False))
        write_bpe_gguf(name, pre, tokenizer, bos)
        write_cases(name, cases(tokenizer))
    spm = train_spm()
    write_spm_gguf("spm", spm)
    # SentencePiece itself defines right, on texts without user-defined tokens: after those, users of GGUF files expect a
    # space like that at the start of a text, as tokenizer.json has it too, and SentencePiece adds none.
    texts = [text for text in TEXTS if "<tool>" not in text and "\0" not in text]
    rows = [{"text": text, "plain": spm.encode(text), "back": spm.decode(spm.encode(text))} for text in texts]
    write_cases("spm-reference", rows)
    tokenizer = spm_json(spm)
    (OUT / "spm.json").write_text(tokenizer.to_str(pretty=False))
    write_cases("spm", cases(tokenizer))
    if BOOKS.exists():
        write_cases("books-2m", cases(Tokenizer.from_file(str(BOOKS))))


if __name__ == "__main__":
    main()
