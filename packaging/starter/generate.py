#!/usr/bin/env python3
# Writes the training text of the starter model: talks as JSON lines. Invariant: the same seed gives the same text, and no
# question of questions.json is ever in it.
import argparse
import json
import random
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from noise import noisy  # noqa: E402
from patterns import alternatives, compiled, expand, read_entries, read_grammar  # noqa: E402
from sources import facts  # noqa: E402
from tables import Facts, arithmetic, units  # noqa: E402

KEY_FORMS = ["<what> {k}", "<does> {k} (do|mean|control|<set>|)", "what is {k} (for|good for|in the <conf>|)", "what is the default (value|) (of|for) {k}",
             "default (value|) (of|for) {k}", "{k} default", "{k} (default value|meaning|setting)", "where (do|can) I <set> {k}", "<how> <set> {k}",
             "in (which|what) section is {k}", "which section (has|holds|is for) {k}", "{k}", "what (values|value) (can|may|does) {k} (have|take)",
             "what is {k} set to by default", "how (big|large|long|high) is {k} by default", "explain the {k} (key|setting|option)",
             "the (key|setting|option) {k}", "what happens (if|when) I (<set>|change) {k}", "is there a (key|setting) {k}",
             "what does the (setting|key|option|line) {k} do", "what should {k} be", "<how> (raise|lower|increase|<set>) {k}",
             "which (key|setting) is {k}", "what do I (write|put) (for|in|into) {k}", "value of {k}", "what would {k} change", "{k}, what is it", "{k}? what is that"]
COMMAND_FORMS = ["<what> {c}", "<does> {c} (do|show|print|)", "what is {c} (for|good for|used for)", "{c}", "how do I use {c}", "{c} (usage|example|help|syntax|command)",
                 "(give|show) me an example (of|for) {c}", "explain the {n} (command|subcommand)", "when (do|would|should) I use {c}", "what happens (when|if) I (run|type|call|enter) {c}",
                 "purpose of {c}", "what does the {n} (command|subcommand) (of hyp|) do", "what is the {n} (command|subcommand) (for|)", "how does {c} work", "meaning of {c}",
                 "<does> the {n} (command|subcommand) do", "<what> the (command|subcommand) {n}", "what will {c} (do|show me|print|tell me)", "why would I (use|run) {c}", "{n} command", "{c}, what is it"]
OPTION_FORMS = ["<does> {o} (do|mean|)", "<what> {o}", "what is {o} (for|good for)", "{o}", "what is the {o} (option|flag|switch) (for|)", "meaning of {o}",
                "how do I use {o}", "explain the {o} (option|flag|)", "hyp {o}", "when (do|would) I use {o}", "{o} (option|flag|example)", "what happens with {o}", "<does> the {o} (option|flag|switch) do",
                "why would I (give|use|pass) {o}", "what does hyp {c} {o} do", "hyp {c} {o}", "(give|show) me an example of {o}"]
EXIT_FORMS = ["what does exit (code|status) {e} (of hyp|) mean", "exit (code|status) {e}", "hyp (exited|ended|stopped|quit|finished|failed|returned|returns|exits|ends|fails) with (code|exit code|status|exit status|) {e}",
              "what does (a return code of|return code|exit value|the code|code|status) {e} (mean|stand for)", "why does hyp (exit|end|fail|return) with {e}", "meaning of exit (code|status) {e}", "return code {e} (of hyp|)",
              "(my script|the script) (gets|sees|got) exit (code|status) {e} (from hyp|)", "hyp (gives|gave) (me|) exit (code|status) {e}", "what is exit (code|status) {e}", "$? is {e} after hyp", "hyp {e} exit code", "what is wrong (if|when) hyp (returns|exits with|ends with) {e}",
              "when does hyp (exit|end) with {e}", "explain exit (code|status) {e}", "error code {e} (of hyp|)", "hyp (error|code|status) {e}"]
FAVOURED = {"what-is": 6, "what-is-hyp": 2, "what-is-hyprstreamd": 2, "add-model": 3, "bigger-model": 2, "commands": 2, "what-are-you": 3,
            "models-folder": 2, "config-file": 2, "option.model": 2, "command.models": 2, "formats": 2, "exit-codes": 2}
AMBIGUOUS = {"model", "models", "state", "cache", "temperature", "threads"}
SYSTEMS = ["You are a helpful assistant.", "You are a helpful AI assistant.", "Answer in one sentence.", "Be brief.", "Answer shortly.", "You are a friendly assistant.",
           "You are hyprstream-starter.", "Answer in plain English.", "Reply politely.", "You answer questions about hyprstream.", "You are a Linux expert.",
           "Be concise and correct.", "You are a system administrator.", "Help the user.", "Speak like a teacher.", "Use simple words.", "You are a pirate.", "Answer with one word."]
GOAL_LAST = [", how", ", how do I do that", ", which command", ", what do I type", ": which command does that", " - how", ", what is the command", ", what do I do",
             ", which option", ", how can I do this", ", is that possible", ": how", ", what should I run", "; what is the way", ", tell me how", ", what then"]
GOAL_FIRST = ["I want to ", "I'd like to ", "I need to ", "suppose I want to ", "", "", "we have to ", "say I want to ", "if I want to ", "I'd rather "]
AND_ALSO = ["and {q}", "and {q}", "also {q}", "next: {q}", "ok, {q}", "thanks. {q}", "then {q}", "good, and {q}", "what about {q}", "how about {q}"]
SYLLABLES = "ba be bi bo bu da de do fa fi fo ga go gu ka ke ki ko la le li lo ma me mi mo na ne no pa pe po ra re ri ro sa se si so ta te ti to va vi vo za zo bl gr fl pr tr sh ch ng rk lt nd x y q".split()
CODE = ["let {a} = {b};", "+    {a}.{b}({c});", "-    {a}({b});", "    return {a};", "def {a}({b}):", "@@ -{n},7 +{n},9 @@ fn {a}", "diff --git a/{a}.rs b/{a}.rs", "index {n}a..{n}f 100644", "--- a/{a}/{b}.c",
        "+++ b/{a}/{b}.c", "error: {a} {b} not {c}", "Nov {n} 12:{n}:07 {a} {b}[{n}]: {c}", "{a} {b} {c} the {a} and {b}.", "if {a} > {n} {{", "}}", "+// {a} {b} {c}", "#include <{a}.h>", "import {a}", "The {a} was {b} and {c}.", "  \"{a}\": {n},", "{a}: {b}"]


def nonsense(rng):
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 5)))


class Intent:
    """One answer and the trees of the questions that it answers."""

    def __init__(self, name, trees, answers, generic=()):
        self.name, self.trees, self.generic, self.answers, self.goals = name, list(trees), list(generic), answers, []

    def ask(self, rng, words):
        answer = rng.choice(self.answers)
        if self.goals and rng.random() < 0.12:
            return rng.choice(GOAL_FIRST) + expand(rng.choice(self.goals), rng, words) + rng.choice(GOAL_LAST), answer
        use_generic = self.generic and (not self.trees or rng.random() < 0.4)
        return expand(rng.choice(self.generic if use_generic else self.trees), rng, words), answer


def with_facts(text, words):
    """text with {key} filled in; braces that name nothing are an error."""
    def fill(found):
        if found.group(1) not in words:
            raise SystemExit(f"no fact {{{found.group(1)}}} for: {text}")
        return str(words[found.group(1)])
    return re.sub(r"\{([a-z_.]+)\}", fill, text)


def filled(forms, classes, **values):
    """Trees of generic forms."""
    out = []
    for form in forms:
        for key, value in values.items():
            form = form.replace("{" + key + "}", value)
        out.append(compiled(form, classes))
    return out


def option_answer(name, value, users):
    """users: [(command or "", description)]."""
    said = "--" + name + (f" {value}" if value else "")
    by_text = {}
    for command, description in users:
        by_text.setdefault(description, []).append(f"`hyp {command}`" if command else "every command of hyp")
    parts = [f"for {' and '.join(commands)}: {text[:1].lower() + text[1:] if not text[:2].isupper() else text}" for text, commands in by_text.items()]
    return f"`{said}` is an option " + "; ".join(parts) + "."


class Corpus:
    """Everything that can be asked, and what to answer."""

    def __init__(self, parameters="5", megabytes="5"):
        self.classes = read_grammar(HERE / "text/grammar.txt")
        self.words, self.commands, self.codes, self.config = facts(parameters, megabytes)
        self.facts = Facts(HERE / "text/facts.txt")
        self.project, self.talk, self.linux = [], [], []
        self.entries()
        self.unknowns()
        self.held_out = {normal(q["question"]) for q in json.loads((HERE / "questions.json").read_text())} if (HERE / "questions.json").exists() else set()

    def trees(self, patterns):
        return [compiled(p, self.classes) for p in patterns]

    def entries(self):
        seen = {}
        for file in ("project", "commands", "config", "talk"):
            for name, patterns, answers, does in read_entries(HERE / f"text/{file}.txt"):
                seen[name] = True
                kind, _, rest = name.partition(".")
                generic = []
                if kind == "key":
                    answers, generic = self.key(name, rest, does)
                elif kind == "command":
                    if rest not in self.commands:
                        raise SystemExit(f"commands.txt: hyp {rest} is not in hyp(1)")
                    generic = filled(COMMAND_FORMS, self.classes, c=f"hyp {rest}", n=rest)
                elif kind == "option":
                    generic = self.option_forms(rest)
                elif kind == "exit":
                    if int(rest) not in self.codes:
                        raise SystemExit(f"commands.txt: exit code {rest} is not in hyp(1)")
                    generic = filled(EXIT_FORMS, self.classes, e=rest)
                answers = [with_facts(a, self.words) for a in answers]
                intent = Intent(name, self.trees(patterns), answers, generic)
                intent.goals = self.goals(patterns)
                (self.talk if file == "talk" else self.project).extend([intent] * FAVOURED.get(name, 1))
        self.missing(seen)
        self.more()
        for line in (HERE / "text/linux.txt").read_text().splitlines():
            if line and not line.startswith("#"):
                command, does, asks = line.split("|")
                forms = [f"<how> ({'|'.join(asks.split(';'))}) (on linux|in linux|in the shell|in the terminal||)", f"which (linux|) command (can I use to|lets me|do I need to) ({'|'.join(asks.split(';'))})",
                         f"(linux|shell|unix) command to ({'|'.join(asks.split(';'))})", f"what does ({command}|the command {command}|the {command} command) do", f"<what> the {command} command", f"(what is|explain|man) {command} (in linux|on linux)", f"what does the linux command {command} do"]
                self.linux.append(Intent("linux." + command, [compiled(f, self.classes) for f in forms], [f"`{command}` {does}."]))

    def goals(self, patterns):
        """What stands behind <how>, to be put first: "list the models, how"."""
        return self.trees(p.removeprefix("<how> ") for p in patterns if p.startswith("<how> "))

    def more(self):
        """Adds the patterns of more.txt to the entries of that name."""
        by_name = {intent.name: intent for intent in self.project + self.talk}
        for name, patterns, _, _ in read_entries(HERE / "text/more.txt"):
            if name not in by_name:
                raise SystemExit(f"more.txt: no entry {name}")
            by_name[name].trees += self.trees(patterns)
            by_name[name].goals += self.goals(patterns)

    def option_forms(self, name):
        users = [c for c in self.commands if name in self.commands[c].options and c] or ["ask"]
        return filled(OPTION_FORMS, self.classes, o="--" + name, c="(" + "|".join(users) + ")")

    def key(self, name, key, does):
        if key not in self.config:
            raise SystemExit(f"config.txt: {key} is not in hyprstreamd.toml")
        section, bare = key.split(".")
        value = self.config[key]
        tail = f"Its default is {value}." if key != "generation.model" else "Without it the newest usable model answers."
        forms = [f"[{section}] {bare}", f"{section}.{bare}", f"the {bare} key", f"{bare} in [{section}]", f"{bare} in the {section} section", f"the key {bare}"]
        if bare not in AMBIGUOUS:
            forms += [bare] * 8 + ([bare.replace("_", " ")] * 2 if "_" in bare and bare not in ("max_tokens", "top_k", "top_p", "min_p") else [])
        return [f"`{bare}` in the [{section}] section {does[0]}. {tail}"], filled(KEY_FORMS, self.classes, k="(" + "|".join(forms) + ")")

    def missing(self, seen):
        """Commands, keys and exit codes must have an entry; options get their text from the page."""
        want = [f"command.{c}" for c in self.commands if c] + [f"key.{k}" for k in self.config] + [f"exit.{e}" for e in self.codes]
        if lacking := [w for w in want if w not in seen]:
            raise SystemExit(f"text/ says nothing of: {', '.join(lacking)}")
        users = {}
        for command, page in self.commands.items():
            for option, description in page.options.items():
                users.setdefault(option, []).append((command, description))
        for option, uses in users.items():
            if f"option.{option}" not in seen:
                value = self.commands[uses[0][0]].values[option]
                self.project.append(Intent(f"option.{option}", [], [option_answer(option, value, uses)], self.option_forms(option)))

    def unknowns(self):
        blocks, self.unknown, self.long = {}, [], None
        name = None
        for line in (HERE / "text/unknown.txt").read_text().splitlines():
            if line.startswith("["):
                name = line[1:-1]
                blocks[name] = []
            elif line and not line.startswith("#"):
                blocks[name].append(line)
        topics, people = blocks["topics"][0].split(";"), blocks["people"][0].split(";")
        self.random_words = {"topic": lambda rng: rng.choice(topics), "person": lambda rng: rng.choice(people), "nonsense": nonsense}
        for name in ("know", "write", "personal", "long"):
            trees = [compiled(l[2:], self.classes) for l in blocks[name] if l.startswith("? ")]
            intent = Intent("unknown." + name, trees, [l[2:] for l in blocks[name] if l.startswith("! ")])
            if name == "long":
                self.long = intent
            else:
                self.unknown.extend([intent] * (2 if name == "know" else 1))
        self.unknown_answer = self.unknown[0].answers

    def pasted(self, rng):
        """Text as it comes through a pipe."""
        pool = [nonsense(rng) if rng.random() < 0.4 else rng.choice(rng.choice(list(self.words.values())).split() or ["x"]) for _ in range(30)]
        lines = [rng.choice(CODE).format(a=rng.choice(pool), b=rng.choice(pool), c=rng.choice(pool), n=rng.randint(1, 99)) for _ in range(rng.choice([2, 3, 5, 8, 12, 20, 35, 50, 60, 70]))]
        return "\n".join(lines)

    def turn(self, rng):
        """(question, answer)."""
        draw = rng.random()
        if draw < 0.55:
            intent = rng.choice(self.project)
            question, answer = intent.ask(rng, self.random_words)
            return noisy(question, rng), answer
        if draw < 0.61:
            question, answer = rng.choice(self.talk).ask(rng, self.random_words)
            return noisy(question, rng, rng.random() < 0.5), answer
        if draw < 0.63:
            question, answer = rng.choice(self.linux).ask(rng, self.random_words)
            return noisy(question, rng), answer
        if draw < 0.70:
            if rng.random() < 0.06:
                return noisy(self.facts.unknown_place(rng), rng), rng.choice(self.unknown_answer)
            question, answer = self.facts.ask(rng)
            return noisy(question, rng, rng.random() < 0.6), answer
        if draw < 0.83:
            question, answer = arithmetic(rng)
            return noisy(question, rng, True), answer
        if draw < 0.85:
            question, answer = units(rng)
            return noisy(question, rng, True), answer
        if draw < 0.965:
            question, answer = rng.choice(self.unknown).ask(rng, self.random_words)
            return noisy(question, rng, rng.random() < 0.3), answer
        question, answer = self.long.ask(rng, self.random_words)
        return noisy(question, rng, True) + "\n\n" + self.pasted(rng), answer

    def fresh_turn(self, rng):
        while True:
            question, answer = self.turn(rng)
            if normal(question) not in self.held_out and question:
                return question, answer

    def conversation(self, rng):
        """A list of messages."""
        messages = [{"role": "system", "content": rng.choice(SYSTEMS)}] if rng.random() < 0.08 else []
        count = 1 if rng.random() < 0.72 else rng.randint(2, 5)
        for at in range(count):
            question, answer = self.fresh_turn(rng)
            if at and rng.random() < 0.15:
                question = rng.choice(AND_ALSO[:8]).format(q=question[:1].lower() + question[1:])
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return messages


def normal(text):
    """A question without what does not matter: case, punctuation, spaces."""
    return re.sub(r"[^a-z0-9+*/_-]+", " ", text.lower()).strip()


def main():
    args = argparse.ArgumentParser(description="Write the training text of the starter model.")
    args.add_argument("out", type=Path)
    args.add_argument("--count", type=int, default=300_000)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    corpus, rng = Corpus(), random.Random(args.seed)
    with args.out.open("w") as out:
        for _ in range(args.count):
            out.write(json.dumps({"messages": corpus.conversation(rng)}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
