//! The models folder as people use it. Invariant: what is whole is listed within two seconds, what is not is waited for,
//! and nothing in it takes the daemon down.
use hyprstream_tests::{Daemon, fixtures, wait};
use serde_json::Value;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the README promises.
const LISTED_MAX: Duration = Duration::from_secs(2);
/// Longer than the daemon waits before it calls a quiet file broken.
const SETTLED: Duration = Duration::from_secs(3);

fn empty() -> Daemon {
    Daemon::with(&[], "")
}

fn broken(daemon: &Daemon, name: &str) -> String {
    let model = wait::until(&format!("{name} is listed as broken"), || {
        daemon.model(name).filter(|model| model["state"] == "broken")
    });
    model["reason"].as_str().unwrap().to_owned()
}

/// Writes `bytes` bit by bit without closing, as a download does.
fn copy_slowly(bytes: &[u8], to: &Path, for_at_least: Duration, meanwhile: &mut dyn FnMut()) {
    let mut file = OpenOptions::new().create_new(true).write(true).open(to).unwrap();
    let (start, steps) = (Instant::now(), 40);
    for (done, piece) in bytes.chunks(bytes.len().div_ceil(steps)).enumerate() {
        file.write_all(piece).unwrap();
        while done + 1 < steps && start.elapsed() < for_at_least.mul_f64((done + 1) as f64 / steps as f64) {
            meanwhile();
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_file_and_a_folder_dropped_in_are_listed_within_two_seconds() {
    let daemon = empty();
    for (model, name) in [
        (fixtures::tiny(), "a.gguf"),
        (fixtures::tiny_folder(), "b"),
        (fixtures::tiny(), "sub/c.gguf"),
    ] {
        let start = Instant::now();
        fixtures::install(&model, &daemon.models(), name);
        daemon.await_model(name.trim_end_matches(".gguf"));
        let took = start.elapsed();
        assert!(took < LISTED_MAX, "{name} was listed after {took:?}");
    }
    daemon
        .hyp(["ask", "-m", "sub/c", "--max-tokens", "2", "hello"])
        .ok();
    daemon.stop();
}

#[test]
fn a_plain_copy_is_listed_too() {
    let daemon = empty();
    let start = Instant::now();
    fs::copy(fixtures::tiny(), daemon.models().join("copied.gguf")).unwrap();
    let model = daemon.await_model("copied");
    assert_eq!(model["state"], "available", "{model}");
    assert!(start.elapsed() < LISTED_MAX);
    daemon.stop();
}

#[test]
fn a_half_copied_file_waits() {
    let daemon = empty();
    let bytes = fs::read(fixtures::tiny()).unwrap();
    copy_slowly(&bytes, &daemon.models().join("slow.gguf"), SETTLED, &mut || {
        let listed = daemon.model("slow");
        assert!(listed.is_none(), "listed while it is written: {listed:?}");
    });
    assert_eq!(daemon.await_model("slow")["state"], "available");
    daemon.stop();
}

#[test]
fn a_removed_file_goes_and_a_replaced_one_is_read_again() {
    let daemon = empty();
    fixtures::install(&fixtures::arch("llama", "model.gguf"), &daemon.models(), "m.gguf");
    assert_eq!(daemon.await_model("m")["arch"], "llama");
    fixtures::install(&fixtures::tiny(), &daemon.models(), "m.gguf");
    wait::until("the new file is read", || {
        daemon.model("m").filter(|model| model["arch"] == "qwen3")
    });
    daemon.hyp(["ask", "-m", "m", "--max-tokens", "2", "hello"]).ok();
    fs::remove_file(daemon.models().join("m.gguf")).unwrap();
    wait::until("the file is gone", || daemon.model("m").is_none().then_some(()));
    daemon.hyp(["ask", "-m", "m", "hello"]).fails(5);
    fixtures::install(&fixtures::tiny_folder(), &daemon.models(), "m");
    daemon.await_model("m");
    fs::rename(daemon.models().join("m"), daemon.models().join("n")).unwrap();
    daemon.await_model("n");
    assert!(daemon.model("m").is_none());
    daemon.stop();
}

#[test]
fn a_loaded_model_that_is_replaced_answers_as_the_new_one() {
    let daemon = Daemon::with(&[(fixtures::arch("qwen3", "model.gguf"), "m.gguf")], "");
    daemon.hyp(["load", "m"]).ok();
    fixtures::install(&fixtures::tiny(), &daemon.models(), "m.gguf");
    wait::until("the new file has a tokenizer", || {
        daemon.hyp(["show", "m", "--json"]).json()["tokenizer"]
            .is_string()
            .then_some(())
    });
    daemon.hyp(["ask", "-m", "m", "--max-tokens", "2", "hello"]).ok();
    daemon.stop();
}

#[test]
fn symbolic_links_are_followed_and_dangling_or_circular_ones_do_no_harm() {
    use std::os::unix::fs::symlink;
    let daemon = empty();
    let outside = daemon.folder().join("elsewhere");
    fs::create_dir(&outside).unwrap();
    fixtures::install(&fixtures::tiny(), &outside, "real.gguf");
    fixtures::install(&fixtures::tiny_folder(), &outside, "real-hf");
    symlink(daemon.models(), daemon.models().join("round")).unwrap();
    symlink("/nonexistent/x.gguf", daemon.models().join("dangling.gguf")).unwrap();
    symlink("b.gguf", daemon.models().join("a.gguf")).unwrap();
    symlink("a.gguf", daemon.models().join("b.gguf")).unwrap();
    for (name, why) in [
        ("dangling", "x.gguf, which is not there"),
        ("a", "a loop of links"),
    ] {
        let reason = broken(&daemon, name);
        assert!(reason.contains(why), "{reason}");
    }
    symlink(outside.join("real.gguf"), daemon.models().join("file.gguf")).unwrap();
    symlink(outside.join("real-hf"), daemon.models().join("folder")).unwrap();
    for name in ["file", "folder"] {
        assert_eq!(daemon.await_model(name)["state"], "available");
        daemon.hyp(["ask", "-m", name, "--max-tokens", "2", "hello"]).ok();
    }
    fs::remove_file(daemon.models().join("file.gguf")).unwrap();
    wait::until("the link is gone", || {
        daemon.model("file").is_none().then_some(())
    });
    assert!(outside.join("real.gguf").exists());
    daemon.stop();
}

/// Damaged and hostile files, each with a name: listed with a reason, and refused with it.
fn bad_files() -> Vec<(&'static str, Vec<u8>)> {
    let good = fs::read(fixtures::tiny()).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    vec![
        ("truncated", good[..good.len() / 2].to_vec()),
        ("head-only", good[..100].to_vec()),
        ("empty", Vec::new()),
        ("not-gguf", b"<html>404 Not Found</html>".repeat(20)),
        ("future-version", with(4, &99u32.to_le_bytes())),
        ("many-tensors", with(8, &u64::MAX.to_le_bytes())),
        ("many-keys", with(16, &(u64::MAX / 2).to_le_bytes())),
        ("long-name", with(24, &(1u64 << 62).to_le_bytes())),
    ]
}

#[test]
fn broken_files_are_listed_with_the_reason_and_others_are_served() {
    let daemon = Daemon::tiny();
    for (name, bytes) in bad_files() {
        fs::write(daemon.models().join(format!("{name}.gguf")), bytes).unwrap();
    }
    for (name, _) in bad_files() {
        let reason = broken(&daemon, name);
        assert!(reason.len() > 10 && !reason.contains("panic"), "{name}: {reason}");
        let said = daemon.hyp(["ask", "-m", name, "hello"]).fails(6);
        assert!(said.contains(name), "{said}");
    }
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "2", "hello"])
        .ok();
    let shown = daemon.hyp(["show", "truncated"]).ok();
    assert!(shown.contains("broken") && shown.contains("reason"), "{shown}");
    daemon.stop();
}

#[test]
fn a_broken_folder_names_what_is_wrong() {
    let daemon = Daemon::tiny();
    let break_one = |name: &str, file: &str, with: &[u8]| {
        let source = daemon.folder().join(format!("{name}-source"));
        fs::create_dir(&source).unwrap();
        for entry in fs::read_dir(fixtures::tiny_folder()).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), source.join(entry.file_name())).unwrap();
        }
        fs::write(source.join(file), with).unwrap();
        fixtures::install(&source, &daemon.models(), name);
    };
    let weights = fs::read(fixtures::tiny_folder().join("model.safetensors")).unwrap();
    break_one("short", "model.safetensors", &weights[..weights.len() - 1000]);
    break_one("long-head", "model.safetensors", &u64::MAX.to_le_bytes());
    break_one(
        "bad-config",
        "config.json",
        b"{\"model_type\": \"qwen3\", \"hidden_size\": ",
    );
    break_one("deep-config", "config.json", "[".repeat(100_000).as_bytes());
    let other = fs::read_to_string(fixtures::tiny_folder().join("config.json"))
        .unwrap()
        .replace("wen3", "uux7");
    break_one("unknown-arch", "config.json", other.as_bytes());
    for name in ["short", "long-head", "bad-config", "deep-config"] {
        assert!(!broken(&daemon, name).is_empty());
    }
    let reason = broken(&daemon, "unknown-arch");
    assert!(reason.contains("uux7"), "{reason}");
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "2", "hello"])
        .ok();
    daemon.stop();
}

#[test]
fn a_repaired_file_becomes_usable() {
    let daemon = empty();
    let good = fs::read(fixtures::tiny()).unwrap();
    fs::write(daemon.models().join("m.gguf"), &good[..good.len() / 3]).unwrap();
    broken(&daemon, "m");
    fs::write(daemon.models().join("m.gguf"), &good).unwrap();
    wait::until("the whole file is read", || {
        daemon.model("m").filter(|model| model["state"] == "available")
    });
    daemon.stop();
}

/// What is remembered of a model: its line of the catalog's file.
fn remembered(daemon: &Daemon, name: &str) -> Option<String> {
    let text = fs::read_to_string(daemon.folder().join("state/catalog")).ok()?;
    let named = format!("\"name\":\"{name}\"");
    text.lines().find(|line| line.contains(&named)).map(str::to_owned)
}

#[test]
fn the_catalog_survives_a_kill() {
    let mut daemon = Daemon::tiny();
    let digest = wait::until("the model has a digest", || {
        let detail = daemon.get("/hyprstream/v1/models/tiny").json();
        detail["digest"].as_str().map(str::to_owned)
    });
    let line = remembered(&daemon, "tiny").unwrap();
    assert!(line.contains(&digest), "{line}: {digest}");
    daemon.signal(rustix::process::Signal::KILL);
    assert_eq!(daemon.ended().code(), None);
    assert_eq!(remembered(&daemon, "tiny"), Some(line), "the file is as it was");
    // A digest that nothing computes: only what was remembered gives it.
    let mark = "5".repeat(64);
    let path = daemon.folder().join("state/catalog");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&digest, &mark)).unwrap();
    let folder = daemon.folder().to_owned();
    let mut again = hyprstream_tests::Running::start(&mut hyprstream_tests::daemon::command(&folder));
    let model: Value = wait::until("it serves again", || {
        assert!(again.is_running());
        let reply = hyprstream_tests::wire::try_get(&daemon.socket(), "/hyprstream/v1/models")?;
        reply.json()["models"]
            .as_array()?
            .iter()
            .find(|model| model["name"] == "tiny")
            .cloned()
    });
    assert_eq!(model["state"], "available");
    let detail = daemon.get("/hyprstream/v1/models/tiny").json();
    assert_eq!(detail["digest"], mark);
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "2", "hello"])
        .ok();
}
