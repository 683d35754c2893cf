//! Clients that others wrote: busctl, gdbus, and a desktop program's script. Invariant: each gets what its own
//! documentation says; a client that is absent on this machine says that it was skipped.
use hyprstream_tests::bus::{NAME, PATH};
use hyprstream_tests::{Bus, Daemon, fixtures, program};
use std::process::Command;

fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--help").output().is_ok();
    if !there {
        fixtures::skipped(&format!("{program} as a client: it is absent"));
    }
    there
}

#[test]
fn busctl_lists_reads_and_calls() {
    let Some(bus) = Bus::start() else { return };
    if !has("busctl") {
        return;
    }
    let daemon = Daemon::on_bus(&bus, "");
    let busctl = |args: &[&str]| {
        let mut command = bus.command("busctl");
        command.arg(format!("--address={}", bus.address())).args(args);
        program::run(&mut command)
    };
    let tree = busctl(&["tree", NAME]).ok();
    assert!(tree.contains(&format!("{PATH}/models/tiny")), "{tree}");
    let shown = busctl(&["introspect", NAME, PATH]).ok();
    for word in ["Generate", "Complete", "DefaultModel", "GetManagedObjects"] {
        assert!(shown.contains(word), "{shown}");
    }
    let model = format!("{PATH}/models/tiny");
    let name = busctl(&["get-property", NAME, &model, "org.hyprstream.Model1", "Name"]).ok();
    assert_eq!(name.trim(), "s \"tiny\"");
    let complete = [
        "--json=short",
        "call",
        NAME,
        PATH,
        NAME,
        "Complete",
        "sa(ss)a{sv}",
        "tiny",
        "1",
        "user",
        "hello",
        "2",
        "max_tokens",
        "u",
        "4",
        "temperature",
        "d",
        "0",
    ];
    let reply: serde_json::Value = serde_json::from_str(&busctl(&complete).ok()).unwrap();
    assert_eq!(reply["data"][1]["completion_tokens"]["data"], 4, "{reply}");
    let said = busctl(&["call", NAME, PATH, NAME, "Load", "s", "nonsense"]).fails(1);
    assert!(said.contains("there is no model"), "{said}");
    let said = busctl(&["set-property", NAME, PATH, NAME, "Version", "s", "2"]).fails(1);
    assert!(said.contains("only be read"), "{said}");
    daemon.stop();
}

#[test]
fn gdbus_introspects_and_calls() {
    let Some(bus) = Bus::start() else { return };
    if !has("gdbus") {
        return;
    }
    let daemon = Daemon::on_bus(&bus, "");
    let gdbus = |verb: &str, args: &[&str]| {
        let mut command = bus.command("gdbus");
        command.arg(verb).arg("--address").arg(bus.address());
        command.args(["--dest", NAME, "--object-path", PATH]).args(args);
        program::run(&mut command)
    };
    let shown = gdbus("introspect", &["--recurse"]).ok();
    assert!(
        shown.contains("org.hyprstream.Model1") && shown.contains("EmitsChangedSignal"),
        "{shown}"
    );
    let method = format!("{NAME}.Complete");
    let reply = gdbus(
        "call",
        &[
            "--method",
            &method,
            "tiny",
            "[('user', 'hello')]",
            "{'max_tokens': <uint32 3>}",
        ],
    )
    .ok();
    assert!(reply.contains("'completion_tokens': <uint32 3>"), "{reply}");
    let said = gdbus(
        "call",
        &["--method", &method, "gpt-9", "[('user', 'hello')]", "{}"],
    )
    .fails(1);
    assert!(said.contains("org.hyprstream.Error.ModelNotFound"), "{said}");
    daemon.stop();
}

#[test]
fn a_desktop_program_gets_its_answer() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let mut script = bus.script("desktop.py");
    script.args([
        "--bus",
        &bus.address(),
        "--model",
        "tiny",
        "--max-tokens",
        "5",
        "hello",
        "you",
    ]);
    let said = program::run(&mut script).ok();
    assert!(said.trim_end_matches('\n').chars().count() > 1, "{said:?}");
    let mut script = bus.script("desktop.py");
    script.args(["--bus", &bus.address(), "--model", "gpt-9", "hello"]);
    let said = program::run(&mut script).fails(1);
    assert!(said.starts_with("org.hyprstream.Error.ModelNotFound: "), "{said}");
    daemon.stop();
}
