#!/usr/bin/env python3
# Averages the weights of several runs of train.py that went on from each other, and writes the result. Invariant: all runs have
# the same tokenizer and shape; anything else is refused.
import argparse
from pathlib import Path

import torch

import export
import network

HERE = Path(__file__).resolve().parent


def main():
    args = argparse.ArgumentParser(description="Average runs of train.py.")
    args.add_argument("out", type=Path, help="folder for the Hugging Face form")
    args.add_argument("runs", type=Path, nargs="+", help="folders of train.py")
    args.add_argument("--gguf", type=Path, default=HERE / "hyprstream-starter.gguf")
    args = args.parse_args()
    if len({(run / "tokenizer.json").read_bytes() for run in args.runs}) != 1:
        raise SystemExit("the runs have different tokenizers")
    runs = [torch.load(run / "weights.pt") for run in args.runs]
    mean = {name: sum(run[name] for run in runs) / len(runs) for name in runs[0]}
    args.out.mkdir(parents=True, exist_ok=True)
    export.write_hf(args.out, mean, network.SHAPE, args.runs[0] / "tokenizer.json")
    export.write_gguf(args.gguf, mean, network.SHAPE, args.runs[0] / "tokenizer.json")


if __name__ == "__main__":
    main()
