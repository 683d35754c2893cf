//! Starting, stopping, configuration and memory. Invariant: a daemon that cannot do what it was told says why and ends.
use hyprstream_tests::{Daemon, Ended, daemon, fixtures, program, wait};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("hyprstream-test-")
        .tempdir()
        .unwrap()
}

fn check(folder: &Path, config: &str) -> Ended {
    fs::write(folder.join("test.toml"), config).unwrap();
    program::run(daemon::command(folder).arg("--check-config"))
}

#[test]
fn check_config_finds_every_mistake_with_file_and_line() {
    let folder = folder();
    check(folder.path(), "").ok();
    check(folder.path(), "[runtime]\nthreads = 2\nmemory_max = \"50%\"\n").ok();
    for (config, line, word) in [
        ("[runtime]\nthreds = 2\n", 2, "threds"),
        ("[runtimes]\nthreads = 2\n", 1, "runtimes"),
        ("# fine\n\n[runtime]\nthreads = \"two\"\n", 4, "threads"),
        ("[generation]\ntemperature = 9.5\n", 2, "temperature"),
        ("[http]\nbody_max = \"lots\"\n", 2, "body_max"),
        ("[limits]\nqueue_max = 0\n", 2, "queue_max"),
        ("[runtime\n", 1, ""),
    ] {
        let ended = check(folder.path(), config);
        assert_eq!(ended.code, Some(1), "{config}: {ended:?}");
        let said = ended.out + &ended.err;
        assert!(
            said.contains(&format!("test.toml:{line}")) && said.contains(word),
            "{config}: {said}"
        );
    }
    fs::create_dir(folder.path().join("test.d")).unwrap();
    fs::write(
        folder.path().join("test.d/10-more.toml"),
        "[limits]\nnothing = 1\n",
    )
    .unwrap();
    let ended = check(folder.path(), "");
    assert!((ended.out + &ended.err).contains("10-more.toml:2"));
}

#[test]
fn a_wrong_configuration_or_option_does_not_start() {
    let folder = folder();
    fs::create_dir(folder.path().join("models")).unwrap();
    fs::write(folder.path().join("test.toml"), "[runtime]\nthreds = 2\n").unwrap();
    assert!(
        program::run(&mut daemon::command(folder.path()))
            .fails(1)
            .contains("threds")
    );
    let started = |flag: &str| {
        let mut command = program::command(&program::built("hyprstreamd"), folder.path());
        program::run(command.arg(flag))
    };
    assert!(started("--no-such-flag").fails(2).contains("--no-such-flag"));
    assert!(started("--version").ok().starts_with("hyprstreamd "));
}

#[test]
fn a_second_daemon_in_the_same_place_is_refused() {
    let first = Daemon::tiny();
    program::run(&mut daemon::command(first.folder())).fails(1);
    first
        .hyp(["ask", "-m", "tiny", "--max-tokens", "2", "hello"])
        .ok();
    first.stop();
}

#[test]
fn an_idle_daemon_ends_by_itself() {
    let mut daemon = Daemon::with(
        &[(fixtures::tiny(), "tiny.gguf")],
        "[runtime]\nthreads = 1\nidle_exit = \"2s\"\n",
    );
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "2", "hello"])
        .ok();
    assert_eq!(daemon.ended().code(), Some(0), "{}", daemon.log());
    assert!(!daemon.socket().exists());
    daemon.hyp(["status"]).fails(3);
}

#[test]
fn an_idle_model_is_unloaded() {
    let config = "[runtime]\nthreads = 1\nidle_unload = \"1s\"\n";
    let daemon = Daemon::with(&[(fixtures::tiny(), "tiny.gguf")], config);
    daemon.hyp(["load", "tiny"]).ok();
    wait::until("it is unloaded", || {
        (daemon.model("tiny").unwrap()["state"] == "available").then_some(())
    });
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "2", "hello"])
        .ok();
    daemon.stop();
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_the_numbers() {
    let config = "[runtime]\nthreads = 1\nmemory_max = \"2MiB\"\n";
    let daemon = Daemon::with(&[(fixtures::tiny(), "tiny.gguf")], config);
    let reply = daemon.post(
        "/hyprstream/v1/tokenize",
        &serde_json::json!({"model": "tiny", "text": "hello"}),
    );
    assert!(reply.status == 200 || reply.status == 507, "{reply:?}");
    let said = daemon.hyp(["ask", "-m", "tiny", "hello"]).fails(6);
    assert!(
        said.contains("2.0 MiB") || said.contains("2 MiB") || said.contains("2097152"),
        "{said}"
    );
    assert_eq!(daemon.model("tiny").unwrap()["state"], "available");
    daemon.stop();
}

#[test]
fn the_budget_counts_what_the_threads_keep_and_once() {
    let files = [(fixtures::tiny(), "tiny.gguf"), (fixtures::tiny(), "twin.gguf")];
    let with = |memory_max: u64| Daemon::with(&files, &format!("[runtime]\nmemory_max = {memory_max}\n"));
    let daemon = with(1 << 30);
    let needed =
        |model| daemon.get(&format!("/hyprstream/v1/models/{model}")).json()["memory_needed"].as_u64();
    let needed = needed("tiny").unwrap() + needed("twin").unwrap();
    daemon.hyp(["load", "tiny"]).ok();
    daemon.hyp(["load", "twin"]).ok();
    let status = daemon.get("/hyprstream/v1/status").json();
    let threads = status["memory"]["claimed"].as_u64().unwrap() - needed;
    assert!(threads > 0, "{status}");
    daemon.stop();
    for (budget, fits) in [(needed + threads, 2), (needed + threads - 1, 1)] {
        let daemon = with(budget);
        daemon.hyp(["load", "tiny"]).ok();
        daemon.hyp(["load", "twin"]).ok();
        let loaded = daemon.get("/hyprstream/v1/status").json()["loaded"]
            .as_array()
            .unwrap()
            .len();
        assert_eq!(loaded, fits, "the idle one makes room");
        daemon.stop();
    }
}

#[test]
fn a_stopped_daemon_leaves_no_socket_and_no_prompt_in_its_log() {
    let mut daemon = Daemon::tiny();
    let socket = daemon.socket();
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "4", "the-secret-question"])
        .ok();
    daemon.signal(rustix::process::Signal::INT);
    assert_eq!(daemon.ended().code(), Some(0), "{}", daemon.log());
    assert!(!socket.exists());
    assert!(!daemon.log().contains("the-secret-question"));
}

/// Listens as systemd does.
fn next_with(notify: &UnixDatagram, word: &str) -> String {
    let mut buffer = [0; 4096];
    loop {
        let bytes = notify.recv(&mut buffer).unwrap();
        let said = String::from_utf8_lossy(&buffer[..bytes]).into_owned();
        if said.lines().any(|line| line == word) {
            return said;
        }
    }
}

/// Else systemd would kill it in the middle of a drain that is longer than its own limit, 90 s.
#[test]
fn a_stop_asks_systemd_for_the_time_of_the_drain() {
    let folder = folder();
    fs::create_dir(folder.path().join("models")).unwrap();
    fs::write(folder.path().join("test.toml"), "[limits]\ndrain = \"7m\"\n").unwrap();
    let path = folder.path().join("notify");
    let notify = UnixDatagram::bind(&path).unwrap();
    notify.set_read_timeout(Some(wait::SOON)).unwrap();
    let daemon = hyprstream_tests::Running::start(daemon::command(folder.path()).env("NOTIFY_SOCKET", &path));
    next_with(&notify, "READY=1");
    daemon.signal(rustix::process::Signal::TERM);
    let said = next_with(&notify, "STOPPING=1");
    let asked = said
        .lines()
        .find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
    let asked: u64 = asked.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    assert!(asked > 7 * 60 * 1_000_000, "{said}");
    daemon.end().ok();
}
