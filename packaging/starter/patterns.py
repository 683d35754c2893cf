# The pattern language: (a|b|) chooses, <name> stands for a class of words, @name for a random word. Invariant: a pattern
# that names an unknown class is an error when it is read.
import random
import re


def parse(text: str, classes: dict, at: int = 0, closing: bool = False):
    """A tree: list of str | ("choice", [tree, ..]) | ("word", name)."""
    options, current = [], []
    while at < len(text):
        char = text[at]
        if char == "(":
            tree, at = parse(text, classes, at + 1, True)
            current.append(("choice", tree))
        elif char == "|" and closing:
            options.append(current)
            current, at = [], at + 1
        elif char == ")" and closing:
            return options + [current], at + 1
        elif found := re.compile(r"<([a-z]+)>").match(text, at):
            if found.group(1) not in classes:
                raise SystemExit(f"no class <{found.group(1)}> for: {text}")
            current.append(("choice", classes[found.group(1)]))
            at = found.end()
        elif found := re.compile(r"@([a-z]+)").match(text, at):
            current.append(("word", found.group(1)))
            at = found.end()
        else:
            current.append(char)
            at += 1
    if closing:
        raise SystemExit(f"a ( without ) in: {text}")
    return current, at


def compiled(text: str, classes: dict):
    """The tree of one pattern."""
    return parse(text, classes)[0]


def alternatives(text: str, classes: dict):
    """The trees of a|b|c at the top level."""
    return parse(text + ")", classes, 0, True)[0]


def expand(tree, rng: random.Random, words: dict) -> str:
    """One text of the tree; words = {name: function(rng)}."""
    out = []
    for part in tree:
        if isinstance(part, str):
            out.append(part)
        elif part[0] == "choice":
            out.append(expand(rng.choice(part[1]), rng, words))
        else:
            out.append(words[part[1]](rng))
    return re.sub(r"\s+", " ", "".join(out)).strip().replace(" ,", ",").replace(" ?", "?")


def read_grammar(path):
    """The classes of grammar.txt."""
    classes = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            name, text = line.split(" = ", 1)
            classes[name] = alternatives(text, classes)
    return classes


def read_entries(path):
    """[(id, [pattern text], [answer], does)] of a file with =, ?, !, does lines."""
    entries = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("= "):
            entries.append((line[2:].strip(), [], [], []))
        elif not line or line.startswith("#"):
            continue
        elif not entries:
            raise SystemExit(f"{path}:{number}: a line before the first =")
        elif line.startswith("? "):
            entries[-1][1].append(line[2:])
        elif line.startswith("! "):
            entries[-1][2].append(line[2:])
        elif line.startswith("does "):
            entries[-1][3].append(line[5:])
        else:
            raise SystemExit(f"{path}:{number}: neither = nor ? nor ! nor does: {line}")
    return entries
