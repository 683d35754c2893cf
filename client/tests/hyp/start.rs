//! Starting the user's own daemon: once, by whom it should be, and told when it fails.
use crate::fake::{Home, serve, text};
use hyprstream_protocol::SYSTEM_SOCKET;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

const STATUS: &str = r#"{"models":[],"default":null}"#;

/// A home whose `bin` holds hyp and, as `hyprstreamd`, this script. `None` where a system daemon would answer instead.
fn installed(daemon: Option<&str>) -> Option<Home> {
    if Path::new(SYSTEM_SOCKET).exists() {
        return None;
    }
    let home = Home::new();
    for folder in ["bin", "run"] {
        fs::create_dir(home.path(folder)).unwrap();
        fs::set_permissions(home.path(folder), fs::Permissions::from_mode(0o700)).unwrap();
    }
    fs::copy(env!("CARGO_BIN_EXE_hyp"), home.path("bin/hyp")).unwrap();
    if let Some(script) = daemon {
        program(&home.path("bin/hyprstreamd"), script);
    }
    Some(home)
}

fn program(path: &Path, script: &str) {
    fs::write(path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn hyp(home: &Home, args: &[&str]) -> Command {
    let like = home.bare(args);
    let mut command = Command::new(home.path("bin/hyp"));
    command.args(args).env_clear();
    for (name, value) in like.get_envs() {
        command.env(name, value.unwrap());
    }
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    command
}

/// A script that becomes [`stand_in`].
fn stand_in_script(delay: &str) -> String {
    let me = std::env::current_exe().unwrap();
    format!(
        "echo \"$@\" >> \"$HOME/starts\"; /bin/sleep {delay}; FAKE_DAEMON=1 exec '{}' --exact start::stand_in --nocapture",
        me.display()
    )
}

/// Not a test but the daemon that the tests start: it serves the user's socket for some seconds.
#[test]
fn stand_in() {
    let Some(what) = std::env::var_os("FAKE_DAEMON") else {
        return;
    };
    let fails = what == "fails";
    let socket = Path::new(&std::env::var_os("XDG_RUNTIME_DIR").unwrap()).join("hyprstream/hyprstream.sock");
    fs::create_dir(socket.parent().unwrap()).unwrap();
    fs::set_permissions(socket.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
    let fake = serve(&socket, move |_, peer| {
        if !fails {
            peer.reply(200, STATUS);
        }
        true
    });
    while fake.hung_up.recv_timeout(Duration::from_secs(3)).is_ok() {}
}

#[test]
fn several_start_one() {
    let Some(home) = installed(Some(&stand_in_script("0.3"))) else {
        return;
    };
    let all: Vec<Child> = (0..6)
        .map(|_| hyp(&home, &["models", "--json"]).spawn().unwrap())
        .collect();
    for child in all {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), format!("{STATUS}\n"));
    }
    assert_eq!(
        fs::read_to_string(home.path("starts")).unwrap(),
        "--user --idle-exit 10m\n"
    );
    let log = fs::metadata(home.path("state/hyprstream/hyprstreamd.log")).unwrap();
    assert_eq!(log.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_daemon_that_fails_is_quoted() {
    let Some(home) = installed(Some("echo 'hyprstreamd.toml:3: unknown key' >&2; exit 4")) else {
        return;
    };
    let output = hyp(&home, &["models"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(
        said.contains("hyprstreamd ended at once (exit status: 4)"),
        "{said}"
    );
    assert!(
        said.contains("hyprstreamd.toml:3: unknown key") && said.contains("hyprstreamd.log"),
        "{said}"
    );
}

#[test]
fn systemd_starts_it_where_it_can() {
    let Some(home) = installed(None) else { return };
    let systemctl =
        "echo \"$@\" >> \"$HOME/calls\"\ncase \"$2\" in start) \"$HOME/daemon\" > /dev/null 2>&1 & ;; esac";
    program(&home.path("bin/systemctl"), systemctl);
    program(&home.path("daemon"), &stand_in_script("0"));
    let output = hyp(&home, &["models", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let calls = fs::read_to_string(home.path("calls")).unwrap();
    assert!(calls.ends_with("--user start hyprstreamd.socket\n"), "{calls}");
}

#[test]
fn a_unit_that_fails_is_looked_for_in_systemd() {
    let Some(home) = installed(None) else { return };
    program(
        &home.path("bin/systemctl"),
        "case \"$2\" in start) echo 'Job for hyprstreamd.socket failed.' >&2; exit 1 ;; esac",
    );
    let output = hyp(&home, &["models"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(said.contains("Job for hyprstreamd.socket failed."), "{said}");
    assert!(
        said.contains("`systemctl --user status hyprstreamd`")
            && said.contains("`journalctl --user -u hyprstreamd`"),
        "{said}"
    );
}

#[test]
fn a_unit_that_ends_later_is_looked_for_there_too() {
    let Some(home) = installed(None) else { return };
    let systemctl = "case \"$2\" in start) \"$HOME/daemon\" > /dev/null 2>&1 & ;; esac";
    program(&home.path("bin/systemctl"), systemctl);
    program(
        &home.path("daemon"),
        &stand_in_script("0").replace("FAKE_DAEMON=1", "FAKE_DAEMON=fails"),
    );
    let output = hyp(&home, &["models"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(said.contains("closed the connection"), "{said}");
    assert!(said.contains("`systemctl --user status hyprstreamd`"), "{said}");
}

#[test]
fn nothing_to_start() {
    let Some(home) = installed(None) else { return };
    let output = hyp(&home, &["models"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        text(&output.stderr).contains("neither beside hyp nor in PATH"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn no_start_starts_nothing() {
    let Some(home) = installed(Some(&stand_in_script("0"))) else {
        return;
    };
    let output = hyp(&home, &["models", "--no-start"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        text(&output.stderr).contains("--no-start"),
        "{}",
        text(&output.stderr)
    );
    assert!(!home.path("starts").exists());
}

#[test]
fn a_socket_that_others_could_plant_is_not_used() {
    let Some(home) = installed(Some(&stand_in_script("0"))) else {
        return;
    };
    let folder = home.path("run/hyprstream");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let fake = serve(&folder.join("hyprstream.sock"), |_, _| true);
    let output = hyp(&home, &["models"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        text(&output.stderr).contains("can be written by others (mode 0777)"),
        "{}",
        text(&output.stderr)
    );
    assert!(fake.seen.lock().unwrap().is_empty());
    assert!(!home.path("starts").exists());
}
