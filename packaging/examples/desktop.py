#!/usr/bin/python3
"""Asks a model over D-Bus as a desktop program would, and prints the answer as it comes.

usage: desktop.py [--bus ADDRESS] [--session] QUESTION...

Needs Debian's python3-dbus and python3-gi. The answer comes through a pipe, which a program reads in its main loop; how the
job goes on is told by signals, which reach the caller alone.
"""
import argparse
import codecs
import os
import sys

import dbus
from dbus.mainloop.glib import DBusGMainLoop
from gi.repository import GLib

NAME = "org.hyprstream.Daemon1"
PATH = "/org/hyprstream/Daemon1"
JOB = "org.hyprstream.Job1"


def connect(options):
    loop = DBusGMainLoop()
    if options.bus:
        return dbus.bus.BusConnection(options.bus, mainloop=loop)
    return dbus.SessionBus(mainloop=loop) if options.session else dbus.SystemBus(mainloop=loop)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bus")
    parser.add_argument("--session", action="store_true")
    parser.add_argument("--model", default="")
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("question", nargs="+")
    options = parser.parse_args()

    bus = connect(options)
    loop = GLib.MainLoop()
    ends = {"stream": False, "state": None, "error": ("", "")}

    def settled():
        if ends["stream"] and ends["state"] in ("done", "failed", "cancelled"):
            loop.quit()

    def changed(interface, news, _, path):
        if interface == JOB and path == job.object_path:
            ends["state"] = news.get("State", ends["state"])
            ends["error"] = news.get("Error", ends["error"])
            settled()

    bus.add_signal_receiver(
        changed, "PropertiesChanged", dbus.PROPERTIES_IFACE, path_keyword="path"
    )
    daemon = dbus.Interface(bus.get_object(NAME, PATH), NAME)
    try:
        stream, path = daemon.Chat(
            options.model,
            [("user", " ".join(options.question))],
            {"max_tokens": dbus.UInt32(options.max_tokens), "priority": "interactive"},
            signature="sa(ss)a{sv}",
        )
    except dbus.DBusException as error:
        sys.exit(f"{error.get_dbus_name()}: {error.get_dbus_message()}")
    job = bus.get_object(NAME, path)
    ends["state"] = str(job.Get(JOB, "State", dbus_interface=dbus.PROPERTIES_IFACE))

    end = stream.take()
    decode = codecs.getincrementaldecoder("utf-8")().decode

    def readable(*_):
        piece = os.read(end, 4096)
        print(decode(piece, final=not piece), end="", flush=True)
        if piece:
            return True
        ends["stream"] = True
        settled()
        return False

    GLib.io_add_watch(end, GLib.IO_IN | GLib.IO_HUP, readable)
    loop.run()
    print()
    if ends["state"] != "done":
        sys.exit(f"{ends['error'][0]}: {ends['error'][1]}")


main()
