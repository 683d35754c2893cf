#!/usr/bin/env python3
# Asks the starter model a list of questions and prints the share of right answers. Invariant: an answer that admits not
# to know is right only where the question expects it, and no question of the list is in the training text.
import argparse
import http.client
import json
import random
import socket
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SHARE_MIN = 0.80
FALLBACK = ("do not know that", "cannot do that well", "cannot give good advice", "too hard for me", "too much for me", "too big a question")
TRAINING_TALKS = 60_000


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=300)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def over_socket(path, model, sampling):
    """A function that asks the daemon at this socket, one question after another."""
    def one(question):
        body = {"messages": [{"role": "user", "content": question}], "sampling": sampling}
        if model:
            body["model"] = model
        connection = Connection(path)
        connection.request("POST", "/hyprstream/v1/chat", json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        if reply.status != 200:
            sys.exit(f"{path}: status {reply.status}: {reply.read().decode(errors='replace')}")
        text, ended = [], False
        for line in reply:
            event = json.loads(line)
            if event["event"] == "token":
                text.append(event["text"])
            elif event["event"] == "error":
                sys.exit(f"{path}: {line.decode(errors='replace')}")
            ended = ended or event["event"] == "done"
        if not ended:
            sys.exit(f"{path}: the answer to {question!r} has no end")
        return "".join(text)
    return lambda questions: [one(question) for question in questions]


def by_reference(folder, gguf, sampling):
    """A function that asks transformers; with gguf, with the weights as that file has them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if gguf:
        from export import read_gguf_weights
        model.load_state_dict(read_gguf_weights(gguf), strict=False)
        model.tie_weights()
    hot = sampling["temperature"] > 0
    torch.manual_seed(0)

    def some(questions):
        texts = [tokenizer.apply_chat_template([{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True) for q in questions]
        ids = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt")
        extra = {"temperature": sampling["temperature"], "top_k": 40, "top_p": 0.95} if hot else {}
        with torch.no_grad():
            out = model.generate(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], max_new_tokens=sampling["max_tokens"],
                                 do_sample=hot, eos_token_id=2, pad_token_id=0, **extra)
        return tokenizer.batch_decode(out[:, ids["input_ids"].shape[1]:], skip_special_tokens=True)

    def ask(questions):
        order = sorted(range(len(questions)), key=lambda at: len(questions[at]))
        answers = [""] * len(questions)
        for start in range(0, len(order), 32):
            group = order[start:start + 32]
            for at, answer in zip(group, some([questions[at] for at in group])):
                answers[at] = answer
        return answers
    return ask


def right(entry, answer):
    """Whether an answer has a word of every group."""
    honest = any(words in answer for words in FALLBACK)
    if entry.get("fallback"):
        return honest
    return not honest and all(any(word in answer for word in group) for group in entry["needs"])


def leaked(entries):
    """Questions of the list that the generator's text has."""
    sys.path.insert(0, str(HERE))
    from generate import Corpus, normal
    corpus, rng = Corpus(), random.Random(1)
    wanted = {normal(entry["question"]) for entry in entries}
    seen = set()
    for _ in range(TRAINING_TALKS):
        for message in corpus.conversation(rng):
            if message["role"] == "user" and normal(message["content"]) in wanted:
                seen.add(message["content"])
    return sorted(seen)


def main():
    args = argparse.ArgumentParser(description="Check the starter model's answers.")
    args.add_argument("--socket", help="ask the daemon at this socket")
    args.add_argument("--model", help="ask this model, not the default one")
    args.add_argument("--reference", type=Path, help="ask transformers with this folder (hf/ of train.py)")
    args.add_argument("--gguf", type=Path, help="with --reference: take the weights of this GGUF file")
    args.add_argument("--questions", type=Path, default=HERE / "questions.json")
    args.add_argument("--temperature", type=float, default=0.0)
    args.add_argument("--no-text", action="store_true", help="do not look for the questions in the training text")
    args.add_argument("--quiet", action="store_true", help="print the share alone")
    args = args.parse_args()
    if bool(args.socket) == bool(args.reference):
        sys.exit("give either --socket or --reference")
    entries = json.loads(args.questions.read_text())
    if not args.no_text and (found := leaked(entries)):
        sys.exit("the training text has: " + "; ".join(found))
    sampling = {"temperature": args.temperature, "max_tokens": 160}
    ask = over_socket(args.socket, args.model, sampling) if args.socket else by_reference(args.reference, args.gguf, sampling)
    good = 0
    for entry, answer in zip(entries, ask([entry["question"] for entry in entries])):
        good += right(entry, answer)
        if not right(entry, answer) and not args.quiet:
            print(f"wrong: {entry['question']}\n       {answer}")
    share = good / len(entries)
    print(f"{good} of {len(entries)} right: {share:.1%}")
    return 0 if share >= SHARE_MIN else 1


if __name__ == "__main__":
    sys.exit(main())
