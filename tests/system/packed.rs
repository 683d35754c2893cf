//! Packed weights in the cache folder. Invariant: whatever happens to them, the answer is the same.
use hyprstream_tests::fixtures::Large;
use hyprstream_tests::{Daemon, wait};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
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
fn a_file_that_may_not_grow_costs_memory_and_one_warning() {
    let daemon = Daemon::tiny();
    let expected = ask(&daemon);
    let kept = packed(&daemon);
    let bytes = fs::metadata(&kept).unwrap().len();
    fs::remove_file(&kept).unwrap();
    // The write fails in the middle, as on a disk that fills up: the beginning still fits.
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap());
    let limit = |bytes| {
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(pid, Resource::Fsize, limit).unwrap();
    };
    limit(Some(bytes / 2));
    let log = again(&daemon, &expected);
    assert!(log.contains(PRIVATE), "{log}");
    assert_eq!(log.matches("WARN").count(), 1, "{log}");
    assert!(log.contains("cannot be kept in"), "{log}");
    let cache = daemon.folder().join("cache");
    assert_eq!(
        fs::read_dir(cache).unwrap().count(),
        0,
        "nothing is left half-written"
    );
    limit(None);
    let log = again(&daemon, &expected);
    assert!(log.contains(KEPT) && !log.contains("WARN"), "{log}");
    daemon.stop();
}

/// A number of kB in a file of /proc, as bytes; those of all lines of this name.
fn bytes_of(text: &str, name: &str) -> u64 {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let kib = lines.map(|line| line.trim().trim_end_matches(" kB").parse::<u64>().unwrap());
    kib.sum::<u64>() << 10
}

/// Memory of the daemon that no file stands behind.
fn private(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    bytes_of(&status, "RssAnon:")
}

/// What the daemon has mapped of this file, as /proc/PID/smaps says.
fn mapping(daemon: &Daemon, file: &Path) -> String {
    let maps = fs::read_to_string(format!("/proc/{}/smaps", daemon.pid())).unwrap();
    let mut ours = false;
    let mut text = String::new();
    for line in maps.lines() {
        // `7f00-7f01 r--s ...` begins a mapping; what is said of it follows as `Name: value`.
        if line
            .split_whitespace()
            .next()
            .is_some_and(|word| !word.ends_with(':'))
        {
            ours = line.ends_with(file.to_str().unwrap());
        }
        if ours {
            text.extend([line, "\n"]);
        }
    }
    text
}

/// Loads the large model; returns what the log says, and how much more private memory there is then.
fn load_large(daemon: &Daemon) -> (String, u64) {
    let (from, before) = (daemon.log().len(), private(daemon));
    daemon.hyp(["load", "large"]).ok();
    (since(daemon, from), private(daemon).saturating_sub(before))
}

#[test]
fn weights_from_the_cache_folder_take_no_private_memory() {
    let large = Large::new(40 << 20);
    let config = "[runtime]\nthreads = 1\nkv_tokens = 64\nprefill_tokens_max = 32\n";
    let mut daemon = Daemon::with(&[(large.path(), "large.gguf")], config);
    let (log, _) = load_large(&daemon);
    assert!(log.contains(KEPT), "{log}");
    let file = packed(&daemon);
    let bytes = fs::metadata(&file).unwrap().len();
    assert!(bytes > 40 << 20);
    daemon.restart();
    let (log, grown) = load_large(&daemon);
    assert!(log.contains(FOUND), "{log}");
    assert!(grown < bytes / 8, "{grown} more for {bytes} of weights");
    // All of it is in memory, and is the file's own pages, which the system shares and can take back.
    let map = mapping(&daemon, &file);
    assert!(bytes_of(&map, "Rss:") > bytes / 8 * 7, "{map}");
    for name in ["Private_Dirty:", "Anonymous:", "Swap:"] {
        assert_eq!(bytes_of(&map, name), 0, "{name} {map}");
    }
    // The measure is right: without the folder all of it is private.
    fs::rename(daemon.folder().join("cache"), daemon.folder().join("away")).unwrap();
    daemon.hyp(["unload", "large"]).ok();
    let (log, grown) = load_large(&daemon);
    assert!(log.contains(PRIVATE), "{log}");
    assert!(grown > bytes / 8 * 7, "{grown} more for {bytes} of weights");
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
