//! The commands that README and manual pages show, as they stand there. Invariant: an example that no longer runs fails here; only
//! paths of the system's own daemon are replaced.
use crate::capi::Place;
use hyprstream_tests::{Bus, Daemon, fixtures, program};
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};

/// Where README's commands find the daemon.
const SYSTEM_SOCKET: &str = "/run/hyprstream/hyprstream.sock";

fn text(path: &str) -> String {
    fs::read_to_string(fixtures::root().join(path)).unwrap()
}

/// The literal blocks of a page's EXAMPLES.
fn examples(page: &str) -> Vec<String> {
    let page = text(page);
    let (_, section) = page.split_once("\n.Sh EXAMPLES\n").unwrap();
    let section = section.split("\n.Sh ").next().unwrap();
    let blocks: Vec<String> = section
        .split(".Bd -literal")
        .skip(1)
        .map(|block| {
            let (_, block) = block.split_once('\n').unwrap();
            block.split(".Ed").next().unwrap().replace("\\e", "\\")
        })
        .collect();
    assert!(!blocks.is_empty(), "no example in {page}");
    blocks
}

/// Indented commands that begin with this word, each with the lines that continue it.
fn commands(text: &str, word: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        if goes_on {
            found.last_mut().unwrap().push_str(&format!("\n{line}"));
        } else if line.trim_start().starts_with(&format!("{word} ")) {
            found.push(line.trim_start().to_owned());
        } else {
            continue;
        }
        goes_on = line.ends_with('\\');
    }
    found
}

fn there(program: &str) -> bool {
    let probe = Command::new(program).arg("--help").stdout(Stdio::null()).status();
    if probe.is_err() {
        fixtures::skipped(&format!("examples with {program}: it is absent"));
    }
    probe.is_ok()
}

#[test]
fn the_curl_commands_of_the_readme_run() {
    if fixtures::starter().is_none() || !there("curl") {
        fixtures::skipped("README's curl commands: curl or the starter model is absent");
        return;
    }
    let daemon = Daemon::with(&[], "");
    daemon.await_model("hyprstream-starter");
    let commands = commands(&text("README.md"), "curl");
    let socket = daemon.socket();
    let said: Vec<String> = commands
        .iter()
        .filter(|command| command.contains(SYSTEM_SOCKET))
        .map(|command| {
            let command = command.replace(SYSTEM_SOCKET, socket.to_str().unwrap());
            let mut sh = Command::new("sh");
            program::run(sh.arg("-ec").arg(command)).ok()
        })
        .collect();
    assert_eq!(said.len(), 2, "{commands:?}");
    let whole: Value = serde_json::from_str(&said[0]).unwrap();
    assert_ne!(whole["choices"][0]["message"]["content"], "", "{whole}");
    let last: Value = serde_json::from_str(said[1].lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "done", "{last}");
    assert!(
        (1..=20).contains(&last["usage"]["completion_tokens"].as_u64().unwrap()),
        "{last}"
    );
    daemon.stop();
}

#[test]
fn the_bus_commands_of_readme_and_manual_run() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let page = examples("man/org.hyprstream.Daemon1.5").concat();
    for program in ["busctl", "gdbus"] {
        if !there(program) {
            continue;
        }
        let mut found = commands(&page, program);
        assert_eq!(found.len(), 1, "{page}");
        found.extend(commands(&text("README.md"), program));
        for command in found {
            let said = program::run(bus.command("sh").arg("-ec").arg(&command)).ok();
            assert!(said.contains("completion_tokens"), "{command}\n{said}");
        }
    }
    daemon.stop();
}

#[test]
fn the_program_of_the_c_manual_page_runs() {
    let daemon = Daemon::tiny();
    let place = Place::new();
    let source = daemon.folder().join("page.c");
    fs::write(&source, examples("man/libhyprstream.3").concat()).unwrap();
    let compiled = place.compile(&source);
    let mut command = place.command(&compiled);
    let said = program::run(command.env("HYPRSTREAM_SOCKET", daemon.socket())).ok();
    assert!(!said.is_empty());
    daemon.stop();
}
