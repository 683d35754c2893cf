#!/usr/bin/python3
"""Stands in for polkit and logind on a test's private bus.

usage: bus_services.py ADDRESS RULES [NAME...]      stands in for NAME alone, org.freedesktop.login1 say

RULES is a JSON file, read at every question: {"org.hyprstream.install": "yes" | "no" | "password", ...}; "password" is yes
where a person may be asked. Every question is printed as a JSON line. Lines on standard input: "sleep" and "wake" send
logind's PrepareForSleep; "held" prints how many inhibitors are held.
"""
import json
import os
import sys
import threading

import dbus
import dbus.service
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib


def say(value):
    print(json.dumps(value), flush=True)


class Authority(dbus.service.Object):
    def __init__(self, bus, rules):
        self.rules = rules
        super().__init__(bus, "/org/freedesktop/PolicyKit1/Authority")

    @dbus.service.method(
        "org.freedesktop.PolicyKit1.Authority", in_signature="(sa{sv})sa{ss}us", out_signature="(bba{ss})"
    )
    def CheckAuthorization(self, subject, action, details, flags, cancellation):
        kind, fields = subject
        asked = {"action": str(action), "kind": str(kind), "interactive": bool(flags & 1)}
        asked["subject"] = {str(key): str(value) for key, value in fields.items()}
        say(asked)
        with open(self.rules) as file:
            rule = json.load(file).get(str(action), "no")
        yes = rule == "yes" or (rule == "password" and bool(flags & 1))
        return yes, rule == "password" and not yes, dbus.Dictionary({}, signature="ss")


class Logind(dbus.service.Object):
    def __init__(self, bus):
        self.held = []
        super().__init__(bus, "/org/freedesktop/login1")

    @dbus.service.method("org.freedesktop.login1.Manager", in_signature="ssss", out_signature="h")
    def Inhibit(self, what, who, why, mode):
        assert (what, mode) == ("sleep", "delay"), (what, mode)
        ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self.held.append(ours)
        handed = dbus.types.UnixFd(theirs)
        os.close(theirs)
        return handed

    @dbus.service.signal("org.freedesktop.login1.Manager", signature="b")
    def PrepareForSleep(self, start):
        pass

    def count(self):
        def is_held(end):
            try:
                return os.read(end, 1) != b""
            except BlockingIOError:
                return True

        return sum(1 for end in self.held if is_held(end))


def main():
    bus = dbus.bus.BusConnection(sys.argv[1], mainloop=DBusGMainLoop())
    wanted = sys.argv[3:] or ["org.freedesktop.PolicyKit1", "org.freedesktop.login1"]
    names = [dbus.service.BusName(name, bus) for name in wanted]
    authority, logind = Authority(bus, sys.argv[2]), Logind(bus)
    say({"ready": [name.get_name() for name in names]})

    def obey(word):
        if word == "held":
            say({"held": logind.count()})
        else:
            logind.PrepareForSleep(word == "sleep")
        return False

    def feed():
        for line in sys.stdin:
            GLib.idle_add(obey, line.strip())
        GLib.idle_add(loop.quit)

    loop = GLib.MainLoop()
    threading.Thread(target=feed, daemon=True).start()
    loop.run()
    del authority


main()
