# How people really type: other words, small letters, no question mark, slips of the finger. Invariant: numbers, options and
# names with underscores stay as they are, for they carry the meaning.
import random
import re

SAME = [line.split() for line in """
show list display print see view
delete remove erase
start launch run
stop end halt terminate
folder directory dir
find locate discover
change set adjust modify alter
limit restrict cap bound
memory ram RAM
file files
model LLM
models LLMs
setting option parameter key
settings options parameters keys
config configuration
daemon service server
default standard preset
error message
question prompt query
answer reply response output
computer machine box pc
fast quick quickly
big large huge
small little tiny
maximum largest max highest
wait pause
allowed permitted possible
begin start
need require want
use employ utilise
get obtain receive
put place drop copy store
path location place
explain describe
request call job
several many multiple
own personal
command instruction
flag switch option
shell terminal console
user account
number count amount
choose pick select
keep hold retain
send submit pass
text passage
talk conversation chat
ask query
happens occurs
mean signify
running active
finished done complete
usual normal default
forbid prevent
reduce lower decrease
raise increase enlarge
check verify test
read load
write print produce output
wrong incorrect bad
right correct
together simultaneously
automatically itself
quit leave exit
""".strip().splitlines()]
SYNONYMS = {}
for group in SAME:
    for word in group:
        SYNONYMS.setdefault(word, []).extend(other for other in group if other != word)

FILLER = set("a an the of to in on for is are do does I it my with at be by me please can you that this there will and".split())
BEFORE = ["hi, ", "hello, ", "please ", "quick question: ", "I wonder, ", "so ", "and ", "um, ", "hey, ", "sorry, ", "ok, ",
          "now ", "question: ", "tell me, ", "say, ", "well, ", "dear model, ", "hyp, ", "excuse me, ", "one more thing: ",
          "I am new here, ", "I just installed hyprstream. ", "can you tell me, ", "do you know ", "I forgot, ", "next: ",
          "I would like to know: ", "just curious, ", "remind me, ", "my colleague asks: ", "I have two questions. first: ", "suppose I am root. ", "I run a small server. ", "hm, ", "right, ",
          "on my laptop, ", "on debian, ", "good morning, ", "as a normal user, ", "from a shell, ", "what I want to know: ", "last question: ",
          "help! ", "I read the manual but ", "it is not clear to me ", "somebody asked me ", "would you mind telling me ", "let me ask, ", "for my notes, ", "being a beginner, ", "in a script, "]
AFTER = [" please", " thanks", " for me", ", please", " exactly", " again", " on linux", " now", " then", " actually",
         ", do you know", ", any idea", " on my server", " on debian", " here", ", thank you", " in practice", " in short",
         " at all", " by the way", ", can you tell me", " quickly", " in general", " these days", " on this box", " anyway", " really", " today"]


def slip(word: str, rng: random.Random) -> str:
    """One slip of the finger."""
    if len(word) < 4 or not word.isalpha():
        return word
    at = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2:]
    if kind == 1:
        return word[:at] + word[at + 1:]
    if kind == 2:
        return word[:at] + word[at] + word[at:]
    return word[:at] + rng.choice("abcdefghijklmnopqrstuvwxyz") + word[at + 1:]


def swap_words(words, rng):
    """Some words by others of the same meaning."""
    return [rng.choice(SYNONYMS[w]) if w in SYNONYMS and rng.random() < 0.2 else w for w in words]


def noisy(text: str, rng: random.Random, plain: bool = False) -> str:
    """text as somebody might type it; plain leaves the words alone."""
    words = text.rstrip("?!. ").split(" ")
    if not plain:
        if rng.random() < 0.4:
            words = swap_words(words, rng)
        draw = rng.random()
        if draw < 0.10 and len(words) > 3:
            words = [w for w in words if w not in FILLER] or words
            if rng.random() < 0.3:
                rng.shuffle(words)
        elif draw < 0.22 and len(words) > 3:
            words = [w for w in words if w not in FILLER or rng.random() < 0.6] or words
        if rng.random() < 0.09:
            at = rng.randrange(len(words))
            words[at] = slip(words[at], rng)
    out = " ".join(words)
    if not plain and rng.random() < 0.16:
        out = rng.choice(BEFORE) + out
    if not plain and rng.random() < 0.10:
        out += rng.choice(AFTER)
    out = re.sub(r"\s+", " ", out)
    draw = rng.random()
    if draw < 0.45:
        out = out[:1].upper() + out[1:]
    elif draw < 0.75:
        out = out.lower() if not re.search(r"[A-Z]{3}|/|_", out) else out[:1].lower() + out[1:]
    elif draw < 0.77:
        out = out.upper() if not re.search(r"--|/|_", out) else out
    draw = rng.random()
    return out + ("?" if draw < 0.55 else "." if draw < 0.62 else "!" if draw < 0.63 else "")
