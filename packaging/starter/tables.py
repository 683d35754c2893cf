# Sums, units and facts, from tables. Invariant: every answer is computed or read from text/facts.txt, and a fixed twentieth
# of the sums never appears in training, so that they can be asked later.
import random
import re

from patterns import alternatives, expand

WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
SIGNS = {
    "+": ["{a} + {b}", "{a}+{b}", "{a} plus {b}", "the sum of {a} and {b}", "{b} added to {a}", "{a} and {b} together"],
    "-": ["{a} - {b}", "{a}-{b}", "{a} minus {b}", "{b} subtracted from {a}", "{b} less than {a}", "{a} take away {b}"],
    "*": ["{a} * {b}", "{a}*{b}", "{a} times {b}", "{a} x {b}", "the product of {a} and {b}", "{a} multiplied by {b}"],
    "/": ["{a} / {b}", "{a}/{b}", "{a} divided by {b}", "{a} over {b}", "{a} : {b}"],
}
ASK = ["{e}", "{e}", "{e}", "what is {e}", "what is {e}", "what's {e}", "how much is {e}", "calculate {e}", "compute {e}",
       "{e} =", "{e} = ?", "what does {e} make", "tell me {e}", "can you calculate {e}", "what do you get for {e}", "solve {e}",
       "what do I get if I calculate {e}", "the result of {e}", "work out {e}", "I need {e}"]
TOO_HARD = ("That sum is too hard for me, and I would likely get it wrong. Use `bc` or `python3` in the shell, or a bigger "
            "model with `hyp ask --model NAME`.")


def held_out(a: int, sign: str, b: int) -> bool:
    """Whether a sum is kept from training."""
    return (a * 7919 + b * 104729 + ord(sign) * 31) % 20 == 0 and (a > 12 or b > 12)


def small_sum(rng: random.Random):
    """(a, sign, b, result) within reach of a small model."""
    sign = rng.choice("+++---**/")
    if sign in "+-":
        top = rng.choice((12, 12, 30, 100, 100))
        a, b = rng.randint(0, top), rng.randint(0, top)
        if sign == "-" and a < b and rng.random() < 0.7:
            a, b = b, a
        return a, sign, b, a + b if sign == "+" else a - b
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    if sign == "*":
        return a, sign, b, a * b
    b = max(b, 1)
    return a * b, sign, b, a


def arithmetic(rng: random.Random, training: bool = True):
    """A sum and its answer."""
    if rng.random() < 0.06:
        sign = rng.choice("+-*/")
        low = 13 if sign == "*" else 200
        a, b = rng.randint(low, 10 ** rng.randint(3, 6)), rng.randint(low, 10 ** rng.randint(3, 5))
        form = rng.choice(SIGNS[sign]).format(a=a, b=b)
        return rng.choice(ASK).format(e=form), TOO_HARD
    while True:
        a, sign, b, result = small_sum(rng)
        if held_out(a, sign, b) != training:
            break
    said = (WORDS[a], WORDS[b]) if a <= 12 and b <= 12 and rng.random() < 0.15 else (a, b)
    form = rng.choice(SIGNS[sign]).format(a=said[0], b=said[1])
    return rng.choice(ASK).format(e=form), f"{a} {sign} {b} = {result}."


EXACT = [("kilometres", "metres", 1000, "km", "m", 100), ("metres", "centimetres", 100, "m", "cm", 100),
         ("centimetres", "millimetres", 10, "cm", "mm", 100), ("kilograms", "grams", 1000, "kg", "g", 100),
         ("hours", "minutes", 60, "h", "min", 12), ("minutes", "seconds", 60, "min", "s", 12), ("days", "hours", 24, "d", "h", 10),
         ("weeks", "days", 7, "weeks", "days", 12), ("years", "months", 12, "years", "months", 12),
         ("GiB", "MiB", 1024, "GiB", "MiB", 8), ("MiB", "KiB", 1024, "MiB", "KiB", 8), ("litres", "millilitres", 1000, "l", "ml", 100),
         ("tonnes", "kilograms", 1000, "t", "kg", 50), ("euros", "cents", 100, "euros", "cents", 50)]
RULES = [("mile", "miles", "kilometres", "1 mile is about 1.609 kilometres"), ("inch", "inches", "centimetres", "1 inch is 2.54 centimetres"),
         ("foot", "feet", "metres", "1 foot is 0.3048 metres"), ("pound", "pounds", "kilograms", "1 pound is about 0.4536 kilograms"),
         ("gallon", "gallons", "litres", "1 US gallon is about 3.785 litres"), ("ounce", "ounces", "grams", "1 ounce is about 28.35 grams"),
         ("yard", "yards", "metres", "1 yard is 0.9144 metres"), ("kilometre", "kilometres", "miles", "1 kilometre is about 0.6214 miles"),
         ("kilogram", "kilograms", "pounds", "1 kilogram is about 2.205 pounds"), ("metre", "metres", "feet", "1 metre is about 3.281 feet"),
         ("centimetre", "centimetres", "inches", "1 centimetre is about 0.3937 inches"), ("litre", "litres", "gallons", "1 litre is about 0.2642 US gallons")]
CONVERT = ["how many {u} are in {n} {v}", "how many {u} are {n} {v}", "convert {n} {v} to {u}", "{n} {v} in {u}", "{n} {v} to {u}",
           "what is {n} {v} in {u}", "how much is {n} {v} in {u}", "how many {u} is {n} {v}", "{n} {v} are how many {u}",
           "turn {n} {v} into {u}", "change {n} {v} into {u}", "how many {u} has {n} {v}"]


def units(rng: random.Random):
    """A conversion and its answer."""
    draw = rng.random()
    if draw < 0.55:
        big, small, factor, b, s, top = rng.choice(EXACT)
        n = rng.randint(1, top)
        if rng.random() < 0.3 and factor in (10, 100, 1000):
            n, v, u, result = n * factor, small, big, n
        else:
            v, u, result = big, small, n * factor
        if rng.random() < 0.25:
            v, u = {big: b, small: s}[v], {big: b, small: s}[u]
        return rng.choice(CONVERT).format(n=n, v=v, u=u), f"{n} {v} = {result} {u}."
    if draw < 0.75:
        celsius = rng.choice([-40, -10, 37] + list(range(0, 101, 5)))
        if rng.random() < 0.5:
            degrees = rng.choice(["degrees Celsius", "Celsius", "C", "degrees C"])
            ask = rng.choice(CONVERT[2:7]).format(n=celsius, v=degrees, u=rng.choice(["Fahrenheit", "F", "degrees Fahrenheit"]))
            return ask, f"{celsius} degrees Celsius are {celsius * 9 / 5 + 32:g} degrees Fahrenheit."
        fahrenheit = round(celsius * 9 / 5 + 32)
        if fahrenheit != celsius * 9 / 5 + 32:
            return units(rng)
        degrees = rng.choice(["degrees Fahrenheit", "Fahrenheit", "F", "degrees F"])
        ask = rng.choice(CONVERT[2:7]).format(n=fahrenheit, v=degrees, u=rng.choice(["Celsius", "C", "degrees Celsius"]))
        return ask, f"{fahrenheit} degrees Fahrenheit are {celsius:g} degrees Celsius."
    one, many, other, rule = rng.choice(RULES)
    if rng.random() < 0.5:
        return rng.choice([f"how many {other} are in a {one}", f"how long is a {one} in {other}", f"a {one} in {other}", f"{many} to {other}",
                           f"convert {many} to {other}", f"how many {other} are 1 {one}", f"what is a {one} in {other}"]), rule + "."
    n = rng.randint(2, 200)
    return rng.choice(CONVERT).format(n=n, v=many, u=other), f"{rule}, so multiply that by {n}."


def read_facts(path):
    """{block: [line]} of facts.txt."""
    blocks, name = {}, None
    for line in path.read_text().splitlines():
        if head := re.fullmatch(r"\[([a-z]+)\]", line):
            name = head.group(1)
            blocks[name] = []
        elif line and not line.startswith("#"):
            blocks[name].append(line)
    return blocks


def pairs(lines):
    return [tuple(item.split("=")) for line in lines for item in line.split(";")]


class Facts:
    """Questions on simple facts."""

    def __init__(self, path):
        blocks = read_facts(path)
        self.capitals = pairs(blocks["capitals"])
        self.nowhere = blocks["nowhere"][0].split(";")
        self.days = blocks["days"][0].split(";")
        self.months = pairs(blocks["months"])
        self.planets = blocks["planets"][0].split(";")
        self.tables = {name: pairs(blocks[name]) for name in ("colours", "mixes", "opposites", "legs", "sounds")}
        self.single = []
        for line in blocks["single"]:
            text, answer = line.rsplit("=", 1)
            self.single.append((alternatives(text, {}), answer))

    def capital(self, rng):
        country, city = rng.choice(self.capitals)
        bare = country.removeprefix("the ")
        ask = rng.choice([f"what is the capital of {country}", f"capital of {country}", f"the capital of {country}", f"which city is the capital of {country}",
                          f"what's the capital city of {country}", f"{bare} capital", f"tell me the capital of {country}", f"name the capital of {country}",
                          f"do you know the capital of {country}", f"what is the capital city of {country}", f"which is {bare}'s capital", f"what is {bare}'s capital"])
        start = country[:1].upper() + country[1:]
        return ask, f"The capital of {country} is {city}" + ("" if city.endswith(".") else ".")

    def which_country(self, rng):
        country, city = rng.choice([p for p in self.capitals if p[0] not in ("England", "Scotland", "the USA")])
        city_asked = city.rstrip(".")
        return rng.choice([f"of which country is {city_asked} the capital", f"which country has the capital {city_asked}", f"{city_asked} is the capital of which country"]), f"{city_asked} is the capital of {country}."

    def calendar(self, rng):
        kind = rng.randrange(5)
        if kind < 2:
            at = rng.randrange(7)
            step, word = rng.choice([(1, "after"), (-1, "before"), (1, "follows")])
            day, other = self.days[at], self.days[(at + step) % 7]
            ask = f"which day follows {day}" if word == "follows" else rng.choice([f"what day comes {word} {day}", f"which day is {word} {day}", f"what is the day {word} {day}", f"the day {word} {day}", f"what comes {word} {day}"])
            return ask, f"{other} comes {'after' if step == 1 else 'before'} {day}."
        at = rng.randrange(12)
        month = self.months[at][0]
        if kind == 2:
            step, word = rng.choice([(1, "after"), (-1, "before")])
            return rng.choice([f"what month comes {word} {month}", f"which month is {word} {month}", f"the month {word} {month}"]), f"{self.months[(at + step) % 12][0]} comes {word} {month}."
        if kind == 3:
            days = self.months[at][1]
            tail = " (29 in a leap year)" if month == "February" else ""
            return rng.choice([f"how many days has {month}", f"how many days are in {month}", f"how many days does {month} have", f"days in {month}", f"how long is {month}"]), f"{month} has {days} days{tail}."
        nth = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split()[at]
        return rng.choice([f"what is the {nth} month", f"which month is the {nth}", f"what is the {nth} month of the year"]), f"The {nth} month is {month}."

    def table(self, rng):
        name = rng.choice(list(self.tables) + ["planets"])
        if name == "planets":
            at = rng.randrange(8)
            nth = "first second third fourth fifth sixth seventh eighth".split()[at]
            return rng.choice([f"what is the {nth} planet", f"which planet is the {nth} from the sun", f"what is the {nth} planet from the sun"]), f"The {nth} planet from the sun is {self.planets[at]}."
        left, right = rng.choice(self.tables[name])
        if name == "colours":
            return rng.choice([f"what colour is {left}", f"what color is {left}", f"which colour has {left}", f"what is the colour of {left}", f"colour of {left}"]), f"{left[:1].upper() + left[1:]} is {right}."
        if name == "mixes":
            a, b = rng.sample(left.split(","), 2)
            return rng.choice([f"what do you get when you mix {a} and {b}", f"{a} and {b} make which colour", f"mix {a} and {b}", f"what colour is {a} mixed with {b}", f"{a} + {b}"]), f"{left.split(',')[0].capitalize()} and {left.split(',')[1]} make {right}."
        if name == "opposites":
            a, b = (left, right) if rng.random() < 0.5 else (right, left)
            return rng.choice([f"what is the opposite of {a}", f"opposite of {a}", f"the opposite of {a}", f"what's the opposite of {a}", f"antonym of {a}"]), f"The opposite of {a} is {b}."
        if name == "legs":
            return rng.choice([f"how many legs has {left}", f"how many legs does {left} have"]), f"{left[:1].upper() + left[1:]} has {right} legs."
        return rng.choice([f"what sound does {left} make", f"which noise makes {left}", f"what noise does {left} make", f"what does {left} say"]), f"{left[:1].upper() + left[1:]} {right}."

    def one(self, rng):
        trees, answer = rng.choice(self.single)
        return expand(rng.choice(trees), rng, {}), answer

    def unknown_place(self, rng):
        place = rng.choice(self.nowhere)
        return rng.choice([f"what is the capital of {place}", f"capital of {place}", f"which city is the capital of {place}"])

    def ask(self, rng):
        """(question, answer)."""
        draw = rng.random()
        if draw < 0.35:
            return self.capital(rng)
        if draw < 0.40:
            return self.which_country(rng)
        if draw < 0.55:
            return self.calendar(rng)
        if draw < 0.75:
            return self.table(rng)
        return self.one(rng)
