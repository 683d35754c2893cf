"""The peer at work: llama.cpp through llama-cpp-python's low-level calls, one process, one model. Reads a command a line on
standard input (JSON) and answers each with a line. Invariant: every figure is taken around llama_decode and the choice of the
likeliest token alone, which is the best that a server on top of it could reach."""
import ctypes
import gc
import json
import random
import sys
import time

import llama_cpp as L
import numpy as np

BATCH = 512


class Peer:
    """A loaded model, and one context at a time."""

    def __init__(self, path, threads, flash, repack):
        L.llama_backend_init()
        self.threads, self.flash, self.context, self.contexts = threads, flash, None, {}
        params = L.llama_model_default_params()
        params.use_extra_bufts = repack
        start = time.perf_counter()
        self.model = L.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise SystemExit("the peer cannot load " + path)
        self.vocab = L.llama_vocab_n_tokens(L.llama_model_get_vocab(self.model))
        self.open(1, 1024, False)
        self.load_s = time.perf_counter() - start
        self.batch = L.llama_batch_init(BATCH, 0, 1)

    def open(self, sequences, tokens, unified):
        """A context for so many sequences of so many tokens in all: kept, and warm, but empty."""
        key = (sequences, tokens, unified)
        self.context = self.contexts.get(key)
        if self.context:
            L.llama_memory_clear(L.llama_get_memory(self.context), False)
            return
        params = L.llama_context_default_params()
        params.n_ctx, params.n_seq_max = tokens, sequences
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = self.flash
        params.kv_unified = unified
        params.type_k = params.type_v = L.GGML_TYPE_F16
        params.no_perf = True
        self.context = self.contexts[key] = L.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("the peer cannot make a context")

    def warm(self, sequences, tokens, unified):
        """The same, after a first use has brought its buffers into memory."""
        known = (sequences, tokens, unified) in self.contexts
        self.open(sequences, tokens, unified)
        if not known:
            self.prefill(self.prompt(min(BATCH, tokens // sequences)), 0)
            self.open(sequences, tokens, unified)

    def prompt(self, tokens):
        """Random token ids, so that no two prompts have a beginning in common."""
        return [random.randrange(self.vocab) for _ in range(tokens)]

    def decode(self, rows):
        """One step over rows of (token, position, sequence, whether its logits are wanted); the likeliest tokens that follow."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, wanted
        if L.llama_decode(self.context, batch) != 0:
            raise SystemExit("the peer's llama_decode failed")
        best = []
        for i, row in enumerate(rows):
            if row[3]:
                logits = np.ctypeslib.as_array(L.llama_get_logits_ith(self.context, i), shape=(self.vocab,))
                best.append(int(logits.argmax()))
        return best

    def prefill(self, tokens, sequence):
        """Reads a prompt; the first token of the answer."""
        best = []
        for at in range(0, len(tokens), BATCH):
            piece = tokens[at:at + BATCH]
            last = len(tokens) - 1
            best = self.decode([(t, at + i, sequence, at + i == last) for i, t in enumerate(piece)])
        return best[0]

    # ---- figures

    def first(self, tokens):
        """Seconds from a prompt of so many tokens to the first token of its answer."""
        self.warm(1, 1024, False)
        prompt = self.prompt(tokens)
        start = time.perf_counter()
        self.prefill(prompt, 0)
        return {"seconds": time.perf_counter() - start}

    def streams(self, streams, prompt, tokens, discard=2):
        """Tokens a second of all streams together while all of them run."""
        self.warm(streams, streams * 256 * -(-(prompt + tokens + discard) // 256), False)
        last = [self.prefill(self.prompt(prompt), s) for s in range(streams)]
        for step in range(tokens + discard):
            if step == discard:
                start = time.perf_counter()
            last = self.decode([(last[s], prompt + step, s, True) for s in range(streams)])
        return {"tokens_s": streams * tokens / (time.perf_counter() - start)}

    def gaps(self, streams, prompt, quiet, long):
        """Milliseconds between tokens of running streams: quiet, while a long prompt comes in, and quiet again. The long prompt
        shares each batch with the streams, as llama.cpp's own server does it."""
        self.warm(streams + 1, 8192, True)
        last = [self.prefill(self.prompt(prompt), s) for s in range(streams)]
        position, out = prompt, {"quiet_ms": [], "busy_ms": [], "after_ms": []}

        def steps(name):
            nonlocal last, position
            before = time.perf_counter()
            for _ in range(quiet):
                last = self.decode([(last[s], position, s, True) for s in range(streams)])
                position += 1
                now = time.perf_counter()
                out[name] += [1e3 * (now - before)] * streams
                before = now

        steps("quiet_ms")
        stamp = time.perf_counter()
        tokens, at = self.prompt(long), 0
        begun = time.perf_counter()
        while at < long:
            rows = [(last[s], position, s, True) for s in range(streams)]
            piece = tokens[at:at + BATCH - streams]
            rows += [(t, at + i, streams, at + i == long - 1) for i, t in enumerate(piece)]
            last = self.decode(rows)[:streams]
            at, position = at + len(piece), position + 1
            now = time.perf_counter()
            out["busy_ms"] += [1e3 * (now - stamp)] * streams
            stamp = now
        out["first_s"] = stamp - begun
        steps("after_ms")
        return out

    def score(self, tokens):
        """Log-probability of each token but the first."""
        self.open(1, 256 * -(-len(tokens) // 256), False)
        out = []
        for at in range(0, len(tokens), BATCH):
            piece = tokens[at:at + BATCH]
            self.decode_all(piece, at)
            for i in range(len(piece)):
                if at + i + 1 < len(tokens):
                    row = L.llama_get_logits_ith(self.context, i)
                    logits = np.ctypeslib.as_array(row, shape=(self.vocab,)).astype(np.float64)
                    top = logits.max()
                    out.append(float(logits[tokens[at + i + 1]] - top - np.log(np.exp(logits - top).sum())))
        return {"logprobs": out}

    def greedy(self, tokens, count):
        """The likeliest tokens after a prompt."""
        self.open(1, 256 * -(-(len(tokens) + count) // 256), False)
        out = [self.prefill(tokens, 0)]
        while len(out) < count:
            out += self.decode([(out[-1], len(tokens) + len(out) - 1, 0, True)])
        return {"tokens": out}

    def decode_all(self, piece, at):
        batch = self.batch
        batch.n_tokens = len(piece)
        for i, token in enumerate(piece):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, at + i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, True
        if L.llama_decode(self.context, batch) != 0:
            raise SystemExit("the peer's llama_decode failed")


def main():
    path, threads, flash, repack = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"
    quiet = L.llama_log_callback(lambda *_: None)
    L.llama_log_set(quiet, ctypes.c_void_p(0))
    peer = Peer(path, threads, flash, repack)
    gc.disable()
    ready = {"load_s": peer.load_s, "version": L.__version__, "system": L.llama_print_system_info().decode()}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        call = json.loads(line)
        print(json.dumps(getattr(peer, call.pop("do"))(**call)), flush=True)


if __name__ == "__main__":
    main()
