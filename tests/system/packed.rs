//! Packed weights in the cache folder. Invariant: whatever happens to them, the answer is the same.
use hyprstream_tests::{Daemon, wait};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const KEPT: &str = "packed weights made and kept";
const FOUND: &str = "packed weights from the cache folder";
const PRIVATE: &str = "packed weights in private memory";

fn ask(daemon: &Daemon) -> String {
    let args = [
        "ask",
        "--max-tokens",
        "12",
        "--temperature",
        "0",
        "once upon a time",
    ];
    daemon.hyp(args).ok()
}

/// What the daemon has logged since the log had `from` bytes.
fn since(daemon: &Daemon, from: usize) -> String {
    daemon.log().get(from..).unwrap_or_default().to_owned()
}

fn packed(daemon: &Daemon) -> PathBuf {
    let mut files = fs::read_dir(daemon.folder().join("cache")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none(), "one file alone");
    file
}

/// Loads the model anew and asks it the same again.
fn again(daemon: &Daemon, expected: &str) -> String {
    daemon.hyp(["unload", "tiny"]).ok();
    let from = daemon.log().len();
    assert_eq!(ask(daemon), expected);
    since(daemon, from)
}

#[test]
fn a_second_start_uses_what_the_first_one_packed() {
    let mut daemon = Daemon::tiny();
    let expected = ask(&daemon);
    assert!(daemon.log().contains(KEPT));
    let before = fs::metadata(packed(&daemon)).unwrap().modified().unwrap();
    daemon.restart();
    let from = daemon.log().len();
    assert_eq!(ask(&daemon), expected);
    let log = since(&daemon, from);
    assert!(log.contains(FOUND) && !log.contains("WARN"), "{log}");
    assert_eq!(fs::metadata(packed(&daemon)).unwrap().modified().unwrap(), before);
    daemon.stop();
}

#[test]
fn a_damaged_file_is_made_anew_and_said_to_be() {
    let daemon = Daemon::tiny();
    let expected = ask(&daemon);
    for damage in ["flip", "cut", "empty"] {
        let path = packed(&daemon);
        daemon.hyp(["unload", "tiny"]).ok();
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let len = file.metadata().unwrap().len();
        match damage {
            "flip" => file.write_all_at(&[0xa5; 64], len / 2).unwrap(),
            "cut" => file.set_len(len / 2).unwrap(),
            _ => file.set_len(0).unwrap(),
        }
        let log = again(&daemon, &expected);
        let warned = log.contains("WARN") && log.contains("damaged");
        assert!(warned && log.contains(KEPT), "{damage}: {log}");
        let log = again(&daemon, &expected);
        assert!(log.contains(FOUND) && !log.contains("WARN"), "{damage}: {log}");
    }
    daemon.stop();
}

#[test]
fn a_file_cut_short_under_a_loaded_model_ends_nothing() {
    let daemon = Daemon::tiny();
    let expected = ask(&daemon);
    let file = OpenOptions::new().write(true).open(packed(&daemon)).unwrap();
    file.set_len(4096).unwrap();
    let from = daemon.log().len();
    assert_eq!(ask(&daemon), expected, "the next request loads it anew");
    let log = since(&daemon, from);
    assert!(log.contains(KEPT) && log.contains("damaged"), "{log}");
    daemon.stop();
}

/// A folder on a disk of its own that is too small for the model; unmounted with the value.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path) -> Option<SmallDisk> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=32k", "tmpfs"]).arg(folder);
        let mounted = mount.output().is_ok_and(|done| done.status.success());
        mounted.then(|| SmallDisk(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_costs_memory_and_one_warning() {
    let daemon = Daemon::tiny();
    let expected = ask(&daemon);
    let cache = daemon.folder().join("cache");
    let disk = SmallDisk::mount(&cache);
    if disk.is_none() {
        // Without the right to mount, a folder that takes no file is the nearest thing.
        hyprstream_tests::fixtures::skipped(
            "a full disk: this user may not mount; an absent folder stands in",
        );
        fs::rename(&cache, daemon.folder().join("away")).unwrap();
    }
    let log = again(&daemon, &expected);
    assert!(log.contains(PRIVATE), "{log}");
    assert_eq!(log.matches("WARN").count(), 1, "{log}");
    assert!(log.contains("cannot be kept in"), "{log}");
    if disk.is_some() {
        assert_eq!(
            fs::read_dir(&cache).unwrap().count(),
            0,
            "nothing is left half-written"
        );
    } else {
        fs::rename(daemon.folder().join("away"), &cache).unwrap();
    }
    drop(disk);
    let log = again(&daemon, &expected);
    assert!(log.contains(FOUND), "{log}");
    daemon.stop();
}

#[test]
fn a_changed_model_is_packed_anew() {
    let daemon = Daemon::tiny();
    ask(&daemon);
    let old = packed(&daemon);
    let changed = daemon.folder().join("changed");
    let mut bytes = fs::read(daemon.models().join("tiny.gguf")).unwrap();
    let at = bytes.len() - 6;
    bytes[at] ^= 3;
    fs::write(&changed, bytes).unwrap();
    let from = daemon.log().len();
    fs::rename(&changed, daemon.models().join("tiny.gguf")).unwrap();
    wait::until("the new content is packed", || {
        ask(&daemon);
        since(&daemon, from).contains(KEPT).then_some(())
    });
    let files = fs::read_dir(daemon.folder().join("cache")).unwrap().count();
    assert!(
        files == 2 && old.exists(),
        "the old one may come back, and is small"
    );
    daemon.stop();
}
