//! `hyp` on a machine where no daemon runs. Invariant: the user's own daemon lives in the test's own home, and ends.
use hyprstream_tests::{Ended, Running, fixtures, program, wait};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

struct Home {
    folder: TempDir,
}

impl Home {
    fn new() -> Option<Home> {
        if PathBuf::from("/run/hyprstream/hyprstream.sock").exists() {
            fixtures::skipped(
                "hyp starting a daemon: the machine's own hyprstreamd runs, and hyp would talk to it",
            );
            return None;
        }
        let folder = tempfile::Builder::new()
            .prefix("hyprstream-home-")
            .tempdir()
            .unwrap();
        fs::create_dir(folder.path().join("run")).unwrap();
        fs::set_permissions(folder.path().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let home = Home { folder };
        fs::create_dir_all(home.models()).unwrap();
        fixtures::install(&fixtures::tiny(), &home.models(), "tiny.gguf");
        Some(home)
    }

    fn models(&self) -> PathBuf {
        self.folder.path().join(".local/share/hyprstream/models")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program::command(&program::built("hyp"), self.folder.path());
        command
            .env("XDG_RUNTIME_DIR", self.folder.path().join("run"))
            .args(args);
        command
    }

    fn hyp(&self, args: &[&str]) -> Ended {
        program::run(&mut self.command(args))
    }

    fn pid(&self) -> i32 {
        let status = self.hyp(&["--no-start", "status", "--json"]).json();
        i32::try_from(status["pid"].as_i64().unwrap()).unwrap()
    }

    fn stop(&self) {
        let ended = program::run(&mut self.command(&["--no-start", "status", "--json"]));
        let Ok(status) = serde_json::from_str::<serde_json::Value>(&ended.out) else {
            return;
        };
        let pid = status["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
            // It may end by itself meanwhile.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            wait::until("the user's daemon ends", || {
                rustix::process::test_kill_process(pid).is_err().then_some(())
            });
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        } else if let Ok(pid) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.pid())) {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid).unwrap(),
                rustix::process::Signal::KILL,
            );
        }
    }
}

#[test]
fn hyp_starts_the_users_own_daemon_and_the_next_hyp_finds_it() {
    let Some(home) = Home::new() else { return };
    home.hyp(&["--no-start", "status"]).fails(3);
    // A model that was copied there a moment ago is not listed at once; code 5 says so.
    let ask = ["ask", "-m", "tiny", "-t", "0", "--max-tokens", "6", "hello"];
    let answer = wait::until("the user's daemon answers", || {
        let ended = home.hyp(&ask);
        assert!(matches!(ended.code, Some(0 | 5)), "{ended:?}");
        (ended.code == Some(0)).then_some(ended.out)
    });
    assert!(!answer.trim().is_empty());
    let pid = home.pid();
    assert!(home.hyp(&["models"]).ok().contains("tiny"));
    assert_eq!(home.pid(), pid);
    let socket = home.folder.path().join("run/hyprstream/hyprstream.sock");
    let folder = fs::metadata(socket.parent().unwrap()).unwrap();
    assert_eq!(
        folder.permissions().mode() & 0o077,
        0,
        "others can reach the user's socket"
    );
    home.stop();
    assert!(!socket.exists());
}

#[test]
fn several_hyp_at_once_start_one_daemon() {
    let Some(home) = Home::new() else { return };
    let all: Vec<Running> = (0..5)
        .map(|_| Running::start(&mut home.command(&["status", "--json"])))
        .collect();
    let mut pids: Vec<serde_json::Value> = all
        .into_iter()
        .map(|one| one.end().json()["pid"].clone())
        .collect();
    pids.dedup();
    assert_eq!(pids.len(), 1, "{pids:?}");
}

#[test]
fn a_daemon_that_cannot_start_is_explained() {
    let Some(home) = Home::new() else { return };
    let config = home.folder.path().join(".config/hyprstream");
    fs::create_dir_all(&config).unwrap();
    fs::write(config.join("hyprstreamd.toml"), "[runtime]\nthreds = 2\n").unwrap();
    let said = home.hyp(&["ask", "hello"]).fails(3);
    assert!(said.contains("threds"), "{said}");
}
