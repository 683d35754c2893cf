#!/usr/bin/python3
"""A D-Bus client that tests drive: commands as JSON lines on standard input, results and signals as JSON lines on output.

usage: bus_caller.py ADDRESS

  {"call": [path, interface, method, signature, [arguments]], "timeout": seconds, "to": name}
      -> {"ok": [...]} or {"error": name, "message": text}; a descriptor in a result is {"fd": number}
      an argument {"file": path} is that file, open for reading; {"pipe": true} is a pipe's end
  {"send": [...]}       the same without waiting for the answer -> {"ok": []}
  {"flood": [...], "count": n}   n calls at once -> {"ok": {error name or "ok": how many}}
  {"crowd": [...], "count": n}   the same from n connections -> likewise
  {"signals": [path, interface, member, signature, [arguments]], "count": n}  that many signals to the daemon alone
  {"read": number}      -> {"ok": text to the end}
  {"some": number}      -> {"ok": what is there, at most 64 bytes}
  {"close": number}     -> {"ok": []}
Signals that reach this connection: {"signal": member, "path": path, "args": [...]}
"""
import collections
import json
import os
import sys
import threading

import dbus
import dbus.lowlevel
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

NAME = "org.hyprstream.Daemon1"


def plain(value):
    """D-Bus values as JSON has them."""
    if isinstance(value, dbus.types.UnixFd):
        number = value.take()
        return {"fd": number}
    if isinstance(value, dbus.Boolean):
        return bool(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (int, dbus.Byte)):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return str(value)


def argument(value):
    if isinstance(value, dict) and set(value) == {"file"}:
        return dbus.types.UnixFd(open(value["file"], "rb"))
    if isinstance(value, dict) and set(value) == {"pipe"}:
        return dbus.types.UnixFd(os.pipe()[0])
    return value


def say(value):
    print(json.dumps(value), flush=True)


def message(call, to):
    path, interface, method, signature, arguments = call
    built = dbus.lowlevel.MethodCallMessage(to, path, interface, method)
    built.append(*[argument(item) for item in arguments], signature=signature)
    return built


def results(reply):
    items = reply.get_args_list()
    return [plain(item) for item in items]


def outcome(bus, command):
    timeout = command.get("timeout", 60)
    to = command.get("to", NAME)
    if "call" in command:
        return {"ok": results(bus.send_message_with_reply_and_block(message(command["call"], to), timeout))}
    if "send" in command:
        bus.send_message(message(command["send"], to))
        bus.flush()
        return {"ok": []}
    if "flood" in command:
        return {"ok": flood(bus, command["flood"], command["count"], to, timeout)}
    if "signals" in command:
        path, interface, member, signature, arguments = command["signals"]
        for _ in range(command["count"]):
            built = dbus.lowlevel.SignalMessage(path, interface, member)
            built.set_destination(to)
            built.append(*arguments, signature=signature)
            bus.send_message(built)
        bus.flush()
        return {"ok": []}
    if "crowd" in command:
        return {"ok": crowd(command["crowd"], command["count"], to, timeout)}
    if "read" in command:
        with os.fdopen(command["read"], "rb") as stream:
            return {"ok": stream.read().decode()}
    if "some" in command:
        return {"ok": os.read(command["some"], 64).decode(errors="replace")}
    os.close(command["close"])
    return {"ok": []}


def flood(bus, call, count, to, timeout):
    seen = collections.Counter()
    done = GLib.MainLoop()

    def answered(reply):
        failed = isinstance(reply, dbus.lowlevel.ErrorMessage)
        seen[reply.get_error_name() if failed else "ok"] += 1
        if sum(seen.values()) == count:
            done.quit()

    for _ in range(count):
        bus.send_message_with_reply(message(call, to), answered, timeout)
    bus.flush()
    done.run()
    return dict(seen)


def crowd(call, count, to, timeout):
    seen = collections.Counter()
    held = [dbus.bus.BusConnection(sys.argv[1]) for _ in range(count)]
    for bus in held:
        try:
            bus.send_message_with_reply_and_block(message(call, to), timeout)
            seen["ok"] += 1
        except dbus.DBusException as error:
            seen[error.get_dbus_name()] += 1
    for bus in held:
        bus.close()
    return dict(seen)


def main():
    bus = dbus.bus.BusConnection(sys.argv[1], mainloop=DBusGMainLoop())

    def heard(_, signal):
        if isinstance(signal, dbus.lowlevel.SignalMessage) and signal.get_path() != "/org/freedesktop/DBus":
            say({"signal": signal.get_member(), "path": signal.get_path(), "args": results(signal)})
        return dbus.lowlevel.HANDLER_RESULT_NOT_YET_HANDLED

    bus.add_message_filter(heard)
    bus.add_match_string(f"type='signal',sender='{NAME}'")
    say({"name": str(bus.get_unique_name())})

    def run(line):
        command = json.loads(line)
        try:
            say(outcome(bus, command))
        except dbus.DBusException as error:
            say({"error": error.get_dbus_name(), "message": error.get_dbus_message()})
        return False

    def feed():
        for line in sys.stdin:
            GLib.idle_add(run, line)
        GLib.idle_add(loop.quit)

    loop = GLib.MainLoop()
    threading.Thread(target=feed, daemon=True).start()
    loop.run()


main()
