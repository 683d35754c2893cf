"""The comparison's results as Markdown. Invariant: every number has its unit, and every table what it was taken with."""
import datetime
import os
import platform
import statistics
import subprocess

import limits

# Name in the series, words, unit, digits, whether more is better (None: no ratio).
ROWS = [
    ("prefill", "prefill, 512 tokens", "tok/s", 0, True),
    ("first", "first token after 128", "s", 3, False),
    ("decode 1", "decode, 1 stream", "tok/s", 1, True),
    ("decode 4", "decode, 4 streams", "tok/s", 1, True),
    ("decode 8", "decode, 8 streams", "tok/s", 1, True),
    ("decode 16", "decode, 16 streams", "tok/s", 1, True),
    ("load, first", "load, first", "s", 2, False),
    ("load, again", "load, again", "s", 2, False),
    ("memory", "resident memory", "MB", 0, False),
    ("private", "of it private", "MB", 0, False),
    ("energy", "energy, 16 streams", "J/tok", 3, False),
    ("gap quiet", "between tokens of 4 streams, p95", "ms", 1, False),
    ("gap busy", "the same while {long} tokens are read, p95", "ms", 1, False),
    ("gap longest", "the same, longest", "ms", 1, False),
    ("gap after", "the same after that, p95", "ms", 1, False),
    ("gap ratio", "p95 while it is read, of the quiet one before", "x", 2, False),
    ("gap ratio both", "the same, of the mean of those before and after", "x", 2, False),
    ("long first", "first token after those {long}", "s", 2, False),
    ("share 1", "decode beside 1 busy program, of quiet", "%", 0, True),
    ("share 2", "decode beside 2 busy programs, of quiet", "%", 0, True),
]

NOTES = """\
hyprstream is asked over its Unix socket, as programs ask it; times are taken where tokens arrive. llama.cpp is called in its own process
through llama-cpp-python's low-level interface (`llama_decode` with a batch that has a token of every stream; the long prompt shares
each batch with the running streams); times are taken around those calls. Both choose the likeliest token, keep keys and values in f16, and
read random token ids, no two prompts alike; n-gram speculation is off. Figures are medians of the rounds, with lowest and highest. *Better* says
how many times better hyprstream is: above 1 it is faster, or takes less. Load times are those of a new process whose file is in the page cache; in
the first one hyprstream packs the weights, later ones map what it packed. While the long prompt is read the four answers go on, so that
they are hundreds of tokens longer after it, and their steps longer too; the peer's hardly go on. Memory is read after a prompt of 512 tokens and one answer; the
peer's has the Python interpreter in it.

The machine's limits are measured in each round by loops that only read memory or only multiply (`cargo bench -p hyprstream-kernels
--bench speed -- {threads} "" limits`). A share is how much of the tokens that they allow a side makes: decode is bound by reading
all matrices once a step, a prompt by multiplying with them. What attention reads and computes comes on top.
Where the limit is that of bf16 tiles, llama.cpp may multiply in int8, for which the machine allows about twice as much."""


class Result:
    """What was found for one file."""

    def __init__(self, model, series, facts):
        self.model, self.series, self.facts = model, series, facts

    def table(self):
        lines = ["| figure | unit | hyprstream | llama.cpp | better |", "|---|---|---|---|---|"]
        for name, words, unit, digits, more in ROWS:
            if name not in self.series.values:
                continue
            ours, peer = (self.series.values[name][side] for side in ("ours", "peer"))
            a, b = statistics.median(ours), statistics.median(peer)
            scale = 100 if unit == "%" else 1
            better = a / b if more else b / a
            cells = [self.cell(values, scale, digits) for values in (ours, peer)]
            words = words.format(long=self.facts["long"])
            lines.append(f"| {words} | {unit} | {cells[0]} | {cells[1]} | {better:.2f} |")
        return "\n".join(lines)

    def shares(self):
        """How much of what the machine allows each side makes."""
        lines = ["| figure | limit, tok/s | since | hyprstream | llama.cpp |", "|---|---|---|---|---|"]
        for name, (most, why) in limits.best(self.facts["limits"], self.facts["weights"]).items():
            words = next(row[1] for row in ROWS if row[0] == name)
            sides = [f"{self.series.median(name, side) / most:.0%}" for side in ("ours", "peer")]
            lines.append(f"| {words} | {most:.0f} | {why} | {sides[0]} | {sides[1]} |")
        return "\n".join(lines)

    @staticmethod
    def cell(values, scale, digits):
        text = [f"{scale * x:.{digits}f}" for x in (statistics.median(values), min(values), max(values))]
        return text[0] if text[1] == text[2] else f"**{text[0]}** ({text[1]} to {text[2]})"

    def section(self):
        size = os.path.getsize(self.model) / 1e6
        remarks = [f"{size:.0f} MB; other programs had {100 * self.facts['foreign']:.1f}% of the processors meanwhile."]
        if not self.facts["energy"]:
            remarks.append("Energy cannot be read on this machine (no RAPL counters).")
        return f"## {os.path.basename(self.model)}\n\n{' '.join(remarks)}\n\n{self.table()}\n\n" \
            f"Shares of the machine's limits:\n\n{self.shares()}\n"


def output(*command, cwd=None):
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True).stdout.strip()


def processor():
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def machine(args, root, results):
    """What it was taken with."""
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) / 1e6
    commit = output("git", "describe", "--always", "--dirty", "--exclude", "*", cwd=root)
    with open(root + "/target/bench/built") as file:
        built = file.read().strip()
    facts = results[0].facts
    on = [word.split("=")[0].strip() for word in facts["peer"]["system"].replace("CPU :", "").split("|") if "= 1" in word]
    return "\n".join([
        f"- Machine: {processor()}, {os.cpu_count()} processors, {memory:.0f} GB, Linux {platform.release()}",
        f"- hyprstream: commit {commit}, {output('rustc', '--version')}, instruction set `{facts['isa']}`, {args.threads} threads, "
        "default settings otherwise",
        f"- llama.cpp: {built}",
        f"  - with {', '.join(on)}; n_threads = {args.threads}, n_batch = n_ubatch = 512, flash attention on, KV f16, "
        f"weights repacked: {'yes' if args.repack else 'no'}",
        f"- {datetime.date.today()}, `tests/bench/compare --rounds {args.rounds} --threads {args.threads} "
        + ("" if args.repack else "--no-repack ")
        + " ".join(os.path.basename(model) for model in args.models) + "`",
    ])


def write(args, root, results):
    parts = ["# hyprstream and llama.cpp, side by side", "Written by `tests/bench/compare`; do not edit.", machine(args, root, results),
             NOTES.replace("{threads}", str(args.threads)), *(result.section() for result in results)]
    with open(args.out, "w") as file:
        file.write("\n\n".join(parts).rstrip() + "\n")
