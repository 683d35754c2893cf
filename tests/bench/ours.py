"""Our side of the comparison: a private hyprstreamd, asked over its socket as any program would. Invariant: figures are taken
from the times at which tokens arrive here, and every prompt differs from all others in its first token."""
import http.client
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import tempfile
import time

API = "/hyprstream/v1"
TOKEN = b'{"event":"token"'
DONE = b'{"event":"done"'
ERROR = b'{"event":"error"'
# No answer here takes this long.
DEADLINE_S = 120


class Connection(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=DEADLINE_S)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Stream:
    """One streaming answer: when each of its tokens came."""

    def __init__(self, path, request):
        body = json.dumps(request).encode()
        head = f"POST {API}/generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.stamps, self.tokens, self.rest, self.over = [], [], b"", False
        self.sent = time.perf_counter()
        self.socket.sendall(head.encode() + body)
        self.socket.setblocking(False)

    def fileno(self):
        return self.socket.fileno()

    def read(self):
        data = self.socket.recv(1 << 16)
        now = time.perf_counter()
        if not data:
            raise SystemExit("the daemon closed a connection")
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            if line.startswith(TOKEN):
                self.stamps.append(now)
                self.tokens.append(line)
            elif line.startswith(DONE):
                self.over, self.done = True, json.loads(line)
            elif line.startswith(ERROR) or b'{"error"' in line:
                raise SystemExit("the daemon says: " + line.decode())


def follow(streams, until):
    """Reads all streams as tokens come, until `until()` or the end of all."""
    deadline = time.perf_counter() + DEADLINE_S
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            if not stream.over:
                selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and not until():
            if time.perf_counter() > deadline:
                raise SystemExit("an answer took too long")
            for key, _ in selector.select(1):
                key.fileobj.read()
                if key.fileobj.over:
                    selector.unregister(key.fileobj)


class Ours:
    """A daemon of our own, and one model in its folder."""

    def __init__(self, program, model, threads, folder=None):
        self.kept = folder or tempfile.TemporaryDirectory(prefix="hyprstream-bench-")
        self.folder = self.kept.name
        os.makedirs(self.folder + "/models", exist_ok=True)
        link = self.folder + "/models/model.gguf"
        if not os.path.lexists(link):
            os.symlink(os.path.abspath(model), link)
        with open(self.folder + "/bench.toml", "w") as file:
            file.write(f'[runtime]\nthreads = {threads}\nidle_unload = "never"\n')
        self.path = self.folder + "/socket"
        with open(self.folder + "/log", "w") as log:
            self.child = subprocess.Popen(
                [program, "--socket", self.path, "--models", self.folder + "/models", "--state", self.folder + "/state",
                 "--cache", self.folder + "/cache", "--config", self.folder + "/bench.toml"], stdout=log, stderr=log)
        deadline = time.perf_counter() + 30
        while not self.listed():
            if time.perf_counter() > deadline or self.child.poll() is not None:
                raise SystemExit("the daemon does not list the model:\n" + open(self.folder + "/log").read())
            time.sleep(0.02)

    def listed(self):
        try:
            models = json.loads(self.call("GET", "/models"))["models"]
        except OSError:
            return False
        return any(m["name"] == "model" and m["state"] != "broken" for m in models)

    def call(self, method, path, body=None):
        connection = Connection(self.path)
        connection.request(method, API + path, json.dumps(body) if body else None, {"content-type": "application/json"})
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    def load(self):
        """Seconds until the model can answer."""
        start = time.perf_counter()
        last = json.loads(self.call("POST", "/load", {"model": "model"}).splitlines()[-1])
        took = time.perf_counter() - start
        if last.get("event") != "done":
            raise SystemExit(f"the daemon cannot load the model: {last}")
        model = json.loads(self.call("GET", "/models/model"))
        self.vocab, self.context = model["shape"]["vocab"], model["context"]
        return took

    def status(self):
        return json.loads(self.call("GET", "/status"))

    def stop(self):
        self.child.send_signal(signal.SIGTERM)
        self.child.wait(30)
        return self.kept

    def ask(self, prompt, tokens):
        # Random prompts soon make the answer go in circles, where guessing ahead would flatter.
        sampling = {"temperature": 0, "max_tokens": tokens, "ignore_eos": True, "speculation": False}
        ids = [random.randrange(self.vocab) for _ in range(prompt)]
        return Stream(self.path, {"model": "model", "prompt": ids, "sampling": sampling})

    # ---- figures

    def first(self, tokens):
        """Seconds from a prompt of so many tokens to the first token of its answer."""
        stream = self.ask(tokens, 1)
        follow([stream], lambda: bool(stream.stamps))
        follow([stream], lambda: False)
        return {"seconds": stream.stamps[0] - stream.sent}

    def streams(self, streams, prompt, tokens):
        """Tokens a second of all streams together while all of them run."""
        asked = [self.ask(prompt, tokens + 8) for _ in range(streams)]
        follow(asked, lambda: False)
        begin = max(s.stamps[2] for s in asked)
        end = min(s.stamps[-1] for s in asked)
        if end <= begin:
            # Some were over before others began.
            return self.streams(streams, prompt, 2 * tokens)
        counted = sum(begin < stamp <= end for s in asked for stamp in s.stamps)
        return {"tokens_s": counted / (end - begin)}

    def gaps(self, streams, prompt, quiet, long):
        """Milliseconds between tokens of running streams: quiet, while a long prompt comes in, and quiet again."""
        asked = [self.ask(prompt, 4000) for _ in range(streams)]
        follow(asked, lambda: min(len(s.stamps) for s in asked) > 3)
        before = [len(s.stamps) for s in asked]
        follow(asked, lambda: min(len(s.stamps) for s in asked) > 3 + quiet)
        middle = [len(s.stamps) for s in asked]
        late = self.ask(long, 1)
        follow(asked + [late], lambda: bool(late.stamps))
        end = [len(s.stamps) for s in asked]
        follow([late], lambda: False)
        follow(asked, lambda: all(len(s.stamps) > have + quiet for s, have in zip(asked, end)))
        last = [len(s.stamps) for s in asked]
        for stream in asked:
            stream.socket.close()

        def between(low, high):
            return [1e3 * (b - a) for s, x, y in zip(asked, low, high) for a, b in zip(s.stamps[x - 1:y], s.stamps[x:y])]

        # A stream that got nothing at all waited for the whole time.
        starved = [1e3 * (late.stamps[0] - s.stamps[-1]) for s, x, y in zip(asked, middle, end) if x == y]
        return {"quiet_ms": between(before, middle), "busy_ms": between(middle, end) + starved, "after_ms": between(end, last),
                "first_s": late.stamps[0] - late.sent}
