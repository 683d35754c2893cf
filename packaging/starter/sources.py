# Reads what the project says of itself: man/hyp.1, man/hyprstreamd.8, packaging/hyprstreamd.toml. Invariant: no command,
# option, key or default is typed twice; what cannot be found here is an error, not a guess.
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Command:
    """One command of hyp: what it does, and {option: description}."""
    about: str = ""
    options: dict = field(default_factory=dict)
    values: dict = field(default_factory=dict)


def plain(roff: str) -> str:
    """A line of man(7) as plain text."""
    text = re.sub(r"\\f[BIRP]", "", roff).replace("\\-", "-").replace("\\*(Aq", "'").replace("\\[cq]", "'")
    return text.replace("\\(aq", "'").replace("\\e", "\\").replace("\\&", "").strip()


def option_of(heading: str):
    """("model", "NAME") of the heading "-m, --model NAME" or "-m, --model <NAME>"; None where it is no long option."""
    found = re.search(r"--([a-z][a-z-]*)", heading)
    if not found:
        return None
    value = re.search(r" <?([A-Z]+)>?$", heading)
    return found.group(1), value.group(1) if value else ""


def read_hyp(path: Path = ROOT / "man/hyp.1"):
    """({command: Command}, {exit code: meaning}); the command "" holds the options of all."""
    commands, codes = {"": Command()}, {}
    section, current, heading, want = "", "", None, False
    for raw in path.read_text().splitlines():
        if raw.startswith(".SH "):
            section, current, heading = raw[4:].strip().strip('"'), "", None
        elif raw.startswith(".SS "):
            current, heading = plain(raw[4:].strip().strip('"')).split()[-1], None
            commands[current] = Command()
        elif raw.startswith(".TP"):
            want, heading = True, None
        elif raw.startswith("."):
            heading = None
        elif want:
            heading, want = plain(raw), False
        elif section == "EXIT STATUS" and heading and heading.isdigit():
            codes[int(heading)] = plain(raw)
        elif section in ("OPTIONS", "COMMANDS") and heading:
            found = option_of(heading)
            if found and found[0] not in commands[current].options:
                commands[current].options[found[0]] = plain(raw).rstrip(".")
                commands[current].values[found[0]] = found[1]
        elif section == "COMMANDS" and current and not commands[current].about and not raw.startswith("\\fB"):
            commands[current].about = plain(raw).rstrip(".")
    if len(commands) < 5 or len(codes) < 5:
        raise SystemExit(f"{path}: found {len(commands)} commands and {len(codes)} exit codes; has its form changed?")
    return commands, codes


def read_daemon_options(path: Path = ROOT / "man/hyprstreamd.8"):
    """The long options of hyprstreamd, as they stand in its page."""
    options = ["-" + name for name in re.findall(r"^\.It Fl (-[a-z-]+)", path.read_text(), re.M)]
    if not options:
        raise SystemExit(f"{path}: no options found; has its form changed?")
    return options


def read_config(path: Path = ROOT / "packaging/hyprstreamd.toml"):
    """{"section.key": default}, from lines that are commented defaults or set values."""
    keys, section = {}, None
    for line in path.read_text().splitlines():
        if head := re.fullmatch(r"\[([a-z]+)\]", line.strip()):
            section = head.group(1)
        elif section and (item := re.fullmatch(r"#?([a-z_]+) = (.+)", line.strip())):
            keys[f"{section}.{item.group(1)}"] = item.group(2).strip().strip('"')
    if len(keys) < 10:
        raise SystemExit(f"{path}: only {len(keys)} keys found; has its form changed?")
    return keys


def facts(parameters: str, megabytes: str):
    """What stands between braces in an answer."""
    commands, codes = read_hyp()
    config = read_config()
    named = [name for name in commands if name]
    sections = list(dict.fromkeys(key.split(".")[0] for key in config))
    words = dict(config)
    words |= {
        "commands": ", ".join(named[:-1]) + " and " + named[-1],
        "sections": ", ".join(sections[:-1]) + " and " + sections[-1],
        "daemon_options": ", ".join(read_daemon_options()),
        "models_system": config["storage.models"],
        "models_user": "~/.local/share/hyprstream/models",
        "socket_system": "/run/hyprstream/hyprstream.sock",
        "parameters": parameters,
        "megabytes": megabytes,
    }
    return words, commands, codes, config
