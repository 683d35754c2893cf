#!/usr/bin/env python3
# Trains the starter model on the text of generate.py and writes it as a Hugging Face folder and as GGUF. Invariant: the same
# text, seed and number of steps give the same model on the same machine.
import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import export
import network

HERE = Path(__file__).resolve().parent
# The pre-tokenizer that GGUF calls "qwen2".
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def new_tokenizer(texts, size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of the given size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=[AddedToken(t, special=True, normalized=False) for t in export.SPECIAL], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != size:
        raise SystemExit(f"the text gives {tokenizer.get_vocab_size()} tokens, not {size}")
    return tokenizer


OPENING_TOKENS = 12


def encoded(talks, tokenizer, openings: float, seed: int):
    """[(ids, is_answer)] of the talks; the answer's end token belongs to it. A share of the one-turn talks, `openings`, ends
    after the answer's first tokens: those decide which answer it is, and the rest of it costs most of the time."""
    draw = random.Random(seed)
    parts, owners = [], []
    for index, talk in enumerate(talks):
        for message in talk:
            answer = message["role"] == "assistant"
            parts.append(f"<|im_start|>{message['role']}\n" + ("" if answer else f"{message['content']}<|im_end|>\n"))
            owners.append((index, False))
            if answer:
                parts.append(message["content"] + "<|im_end|>")
                owners.append((index, True))
                parts.append("\n")
                owners.append((index, False))
    out = [([], []) for _ in talks]
    for (index, answer), item in zip(owners, tokenizer.encode_batch_fast(parts)):
        out[index][0].extend(item.ids)
        out[index][1].extend([answer] * len(item.ids))
    for ids, flags in out:
        start = flags.index(True)
        if draw.random() < openings and not any(flags[at] and not flags[at - 1] for at in range(start + 1, len(flags))):
            del ids[start + OPENING_TOKENS:], flags[start + OPENING_TOKENS:]
    return [(np.array(ids, np.int32), np.array(flags, bool)) for ids, flags in out]


def packed(samples, length: int):
    """Rows of `length`: (tokens, document numbers, answer flags); what does not fit a row is cut at its end."""
    rows, tokens, documents, flags = [], np.zeros(length, np.int64), np.full(length, -1, np.int64), np.zeros(length, bool)
    used = number = 0
    for ids, answer in samples:
        ids, answer = ids[:length], answer[:length]
        if used + len(ids) > length:
            rows.append((tokens, documents, flags))
            tokens, documents, flags = np.zeros(length, np.int64), np.full(length, -1, np.int64), np.zeros(length, bool)
            used = number = 0
        tokens[used:used + len(ids)], documents[used:used + len(ids)], flags[used:used + len(ids)] = ids, number, answer
        used, number = used + len(ids), number + 1
    return rows


def batch(rows, share: float = 0.75):
    """Tensors of one step: tokens, documents, positions whose next token is of an answer, those tokens, weights."""
    tokens, documents, flags = (torch.from_numpy(np.stack(column)) for column in zip(*rows))
    room = int(tokens.numel() * share)
    wanted = torch.zeros_like(flags)
    wanted[:, :-1] = flags[:, 1:]
    at = wanted.flatten().nonzero().flatten()[:room]
    targets = tokens.flatten()[at + 1]
    keep = torch.zeros(room)
    keep[:len(at)] = 1
    pad = room - len(at)
    return tokens, documents, torch.cat((at, at.new_zeros(pad))), torch.cat((targets, targets.new_zeros(pad))), keep


class Optimizer:
    """Muon for the matrices inside, AdamW for embedding and norms; one cosine schedule for both."""

    def __init__(self, weights, rate: float):
        inner = [w for name, w in weights.items() if w.ndim == 2 and "embed" not in name]
        outer = [w for name, w in weights.items() if w.ndim != 2 or "embed" in name]
        self.parts = [torch.optim.Muon(inner, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
                      torch.optim.AdamW(outer, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]
        self.weights, self.rate = list(weights.values()), rate

    def step(self, at: int, done: float):
        warm = min(1.0, (at + 1) / 60)
        rate = self.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = rate
            part.step()
            part.zero_grad(set_to_none=True)
        return rate


def train(args, weights, samples):
    """Trains in place for args.steps, or for args.minutes where the clock ends it first."""
    shape = network.SHAPE
    order = random.Random(args.seed)
    kinds = [(args.length, args.tokens // args.length)] + ([(1024, args.tokens // 1024)] if args.long else [])
    losses = {}
    for length, _ in kinds:
        cos, sin = network.angles(shape, length)
        run = torch.compile(network.answer_loss, dynamic=False)
        losses[length] = lambda data, run=run, cos=cos, sin=sin: run(weights, shape, *data, cos, sin)
    optimizer = Optimizer(weights, args.rate)
    rows = {length: [] for length, _ in kinds}
    mean, began = None, time.time()
    for step in range(args.steps):
        length, count = kinds[1] if args.long and step % 16 == 15 else kinds[0]
        if len(rows[length]) < count:
            order.shuffle(samples)
            fitting = [s for s in samples if len(s[0]) <= length] if length == args.length else sorted(samples[:20000], key=lambda s: -len(s[0]))[:1500]
            rows[length] = packed(fitting, length)
            order.shuffle(rows[length])
        data, rows[length] = batch(rows[length][:count]), rows[length][count:]
        loss = losses[length](data)
        loss.backward()
        done = max((step + 1) / args.steps, (time.time() - began) / 60 / args.minutes)
        rate = optimizer.step(step, min(done, 1.0))
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step in (1, 5) or step % 50 == 49:
            print(f"step {step + 1}/{args.steps} loss {loss.item():.4f} mean {mean:.4f} rate {rate:.2e} {time.time() - began:.0f}s", flush=True)
            if step % 200 == 199:
                torch.save({n: w.detach() for n, w in weights.items()}, args.out / "weights.pt")
        if done >= 1:
            break


def main():
    args = argparse.ArgumentParser(description="Train the starter model.")
    args.add_argument("text", type=Path, help="the output of generate.py")
    args.add_argument("out", type=Path, help="folder for tokenizer, checkpoints and the Hugging Face form")
    args.add_argument("--gguf", type=Path, default=HERE / "hyprstream-starter.gguf")
    args.add_argument("--steps", type=int, default=4000)
    args.add_argument("--minutes", type=float, default=math.inf, help="end by the clock too; the schedule follows")
    args.add_argument("--openings", type=float, default=0.6, help="share of one-turn talks cut after the answer's first tokens")
    args.add_argument("--rate", type=float, default=3e-3)
    args.add_argument("--tokens", type=int, default=4096, help="tokens in a step")
    args.add_argument("--length", type=int, default=256)
    args.add_argument("--long", action="store_true", help="every 16th step has rows of 1024 tokens")
    args.add_argument("--go-on", action="store_true", help="start from the weights in the folder")
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    talks = [json.loads(line)["messages"] for line in args.text.open()]
    path = args.out / "tokenizer.json"
    if not path.exists():
        new_tokenizer((m["content"] for talk in talks[:80000] for m in talk), network.SHAPE["vocab_size"]).save(str(path))
    samples = encoded(talks, Tokenizer.from_file(str(path)), args.openings, args.seed)
    del talks
    total = sum(len(s[0]) for s in samples)
    weights = network.new_parameters(network.SHAPE, args.seed)
    if args.go_on:
        for name, value in torch.load(args.out / "weights.pt").items():
            weights[name].data.copy_(value)
    print(f"{len(samples)} talks, {total} tokens, {sum(s[1].sum() for s in samples)} in answers; {sum(w.numel() for w in weights.values())} parameters", flush=True)
    train(args, weights, samples)
    plain = {name: value.detach() for name, value in weights.items()}
    torch.save(plain, args.out / "weights.pt")
    export.write_hf(args.out / "hf", plain, network.SHAPE, path)
    export.write_gguf(args.gguf, plain, network.SHAPE, path)
    print(f"{args.gguf}: {args.gguf.stat().st_size} bytes", flush=True)


if __name__ == "__main__":
    main()
