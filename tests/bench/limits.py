"""What this machine and a model's file allow at most. Invariant: the limits are measured by the kernels' own bench, in the run that the
figures are of, and a limit counts the weights alone: what attention reads and computes comes on top."""
import re
import statistics
import struct
import subprocess

# Bytes of the kinds of values in a GGUF's metadata; 8 is text, 9 a list.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
ALIGNMENT = 32


def measure(root, threads):
    """Bytes and operations a second by name: `read`, `int8 vectors`, `bf16 tiles`, ... of so many threads."""
    command = ["cargo", "bench", "--locked", "-q", "-p", "hyprstream-kernels", "--bench", "speed", "--", str(threads), "", "limits"]
    text = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    line = next(line for line in text.splitlines() if line.startswith("limits: "))
    found = re.findall(r"([\w ]+?) ([\d.]+) G(?:B|OP)/s", line.removeprefix("limits: "))
    return {name.strip(): float(number) * 1e9 for name, number in found}


def median(several):
    return {name: statistics.median(one[name] for one in several) for name in several[0]}


class Weights:
    """What a GGUF file's header says of its matrices."""

    def __init__(self, path):
        with open(path, "rb") as self.file:
            magic, _, tensors, entries = struct.unpack("<4sIQQ", self.file.read(24))
            if magic != b"GGUF":
                raise SystemExit(f"{path} is no GGUF file")
            alignment = ALIGNMENT
            for _ in range(entries):
                name, value = self.text(), self.value(self.number("<I"))
                if name == b"general.alignment":
                    alignment = value
            found = [self.tensor() for _ in range(tensors)]
            begin = -(-self.file.tell() // alignment) * alignment
            end = self.file.seek(0, 2) - begin
        # A tensor ends where the next one begins.
        ends = dict(zip(sorted(at for _, _, at in found), sorted(at for _, _, at in found)[1:] + [end]))
        self.matrices = {name: (shape[0] * shape[1], ends[at] - at) for name, shape, at in found if len(shape) == 2}

    def number(self, form):
        return struct.unpack(form, self.file.read(struct.calcsize(form)))[0]

    def text(self):
        return self.file.read(self.number("<Q"))

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, count = self.number("<I"), self.number("<Q")
            if kind in SIZES:
                self.file.seek(count * SIZES[kind], 1)
            else:
                for _ in range(count):
                    self.value(kind)
            return None
        return int.from_bytes(self.file.read(SIZES[kind]), "little")

    def tensor(self):
        name = self.text().decode()
        shape = [self.number("<Q") for _ in range(self.number("<I"))]
        self.file.seek(4, 1)
        return name, shape, self.number("<Q")

    def layers(self):
        return [size for name, size in self.matrices.items() if name.startswith("blk.")]

    def head(self):
        """What makes logits: the embeddings, where the file has nothing else for it."""
        return self.matrices.get("output.weight") or self.matrices["token_embd.weight"]

    def bytes_per_token(self):
        """Read for a generated token, or for one of each stream together."""
        return sum(size for _, size in self.layers()) + self.head()[1]

    def operations(self, generated):
        """For a token: a generated one has logits, one of a prompt has none."""
        return 2 * (sum(count for count, _ in self.layers()) + (self.head()[0] if generated else 0))


def best(limits, weights):
    """Tokens a second that the limits allow, by the figures' names, and what says so: the lower one of reading and multiplying."""
    def read(streams):
        words = f"reading {weights.bytes_per_token() / 1e6:.0f} MB at {limits['read'] / 1e9:.1f} GB/s"
        return streams * limits["read"] / weights.bytes_per_token(), words + (f", for {streams} tokens" if streams > 1 else "")

    def multiply(generated, *kinds):
        kind = next((kind for kind in kinds if kind in limits), None)
        if not kind:
            return float("inf"), ""
        operations = weights.operations(generated)
        return limits[kind] / operations, f"{operations / 1e9:.2f} G operations at {limits[kind] / 1e9:.0f} G/s, {kind}"

    return {"decode 1": min(read(1), multiply(True, "int8 vectors")),
            "decode 16": min(read(16), multiply(True, "int8 tiles", "int8 vectors")),
            "prefill": min(read(512), multiply(False, "bf16 tiles", "int8 vectors"))}
