//! The catalog over real folders, with an inspector that reads toy models: `GOOD` and a length, then so many bytes.
use super::*;
use hyprstream_model::{ARCHS, Config, Rope, RopeScaling, Summary};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Instant;

/// What the issue grants a new file.
const LISTED_WITHIN: Duration = Duration::from_secs(2);

fn inspect(path: &Path) -> Result<Summary, String> {
    let path = if path.is_dir() {
        path.join("model.safetensors")
    } else {
        path.to_owned()
    };
    let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let (length, data) = text
        .strip_prefix("GOOD ")
        .and_then(|rest| rest.split_once('\n'))
        .ok_or("not a toy model")?;
    if length.parse() != Ok(data.len()) {
        return Err("truncated".into());
    }
    let arch = &ARCHS[0];
    let rope = Rope {
        dims: 2,
        theta: 1e4,
        layout: arch.gguf_rope,
        scaling: RopeScaling::None,
    };
    let config = Config {
        arch,
        hidden: 2,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 2,
        ffn: 2,
        vocab: 2,
        context: 8,
        norm_eps: 1e-5,
        rope,
        tied: true,
        windows: vec![None],
    };
    Ok(Summary {
        arch: arch.name.into(),
        parameters: 1,
        format: "F32".into(),
        context: 8,
        bytes: data.len() as u64,
        resident_bytes: data.len() as u64,
        config,
        has_tokenizer: None,
        has_template: false,
    })
}

fn toy(data: &str) -> String {
    format!("GOOD {}\n{data}", data.len())
}

struct Setup {
    models: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Setup {
    fn new() -> Setup {
        Setup {
            models: tempfile::tempdir().unwrap(),
            state: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.models.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn start(&self) -> Catalog {
        let roots = vec![Root {
            path: self.models.path().to_owned(),
            starter: false,
        }];
        Catalog::start_with(roots, self.state.path(), || false, inspect).unwrap()
    }
}

fn names(catalog: &Catalog) -> Vec<String> {
    catalog.snapshot().entries.keys().cloned().collect()
}

fn until(what: &str, limit: Duration, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn until_names(catalog: &Catalog, expected: &[&str]) {
    let limit = LISTED_WITHIN;
    let started = Instant::now();
    while names(catalog) != expected {
        assert!(
            started.elapsed() < limit,
            "{:?}, expected {expected:?}",
            names(catalog)
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn new_renamed_replaced_and_removed_files_are_followed() {
    let setup = Setup::new();
    let catalog = setup.start();
    assert!(names(&catalog).is_empty());
    setup.write("a.gguf", &toy("1"));
    setup.write("deep/er/b.gguf", &toy("2"));
    until_names(&catalog, &["a", "deep/er/b"]);
    fs::rename(setup.path("a.gguf"), setup.path("deep/c.gguf")).unwrap();
    until_names(&catalog, &["deep/c", "deep/er/b"]);
    let before = catalog.snapshot().entries["deep/c"].identity;
    setup.write("new", &toy("22"));
    fs::rename(setup.path("new"), setup.path("deep/c.gguf")).unwrap();
    until("replaced", LISTED_WITHIN, || {
        catalog.snapshot().entries["deep/c"].identity != before
    });
    fs::remove_dir_all(setup.path("deep")).unwrap();
    until_names(&catalog, &[]);
}

#[test]
fn a_start_finds_what_was_written_just_before_and_what_a_wrong_clock_dated() {
    let setup = Setup::new();
    setup.write("late.gguf", &toy("12345"));
    let file = File::options().write(true).open(setup.path("late.gguf")).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(9000))
        .unwrap();
    drop(file);
    setup.write("new.gguf", &toy("1"));
    let began = Instant::now();
    let catalog = setup.start();
    assert_eq!(names(&catalog), ["late", "new"]);
    drop(catalog);
    // What is not going to be a model holds a start up for a moment only.
    setup.write("bad.gguf", "GOOD 9");
    let catalog = setup.start();
    assert!(began.elapsed() < LISTED_WITHIN, "{:?}", began.elapsed());
    assert_eq!(names(&catalog), ["late", "new"]);
}

#[test]
fn half_copied_files_wait_and_are_never_listed_broken_while_they_grow() {
    let setup = Setup::new();
    let catalog = setup.start();
    let mut file = File::create(setup.path("slow.gguf")).unwrap();
    let data = "x".repeat(160);
    let text = toy(&data);
    for piece in text.as_bytes().chunks(12) {
        file.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(120));
        assert!(names(&catalog).is_empty(), "listed while it was being written");
    }
    // Whole, and still open.
    std::thread::sleep(Duration::from_millis(600));
    assert!(names(&catalog).is_empty(), "listed while it was open");
    drop(file);
    until_names(&catalog, &["slow"]);
    assert!(catalog.snapshot().entries["slow"].summary().is_some());
}

#[test]
fn a_file_that_stays_bad_is_listed_with_the_reason_and_mends() {
    let setup = Setup::new();
    let catalog = setup.start();
    setup.write("bad.gguf", "GOOD 99\nshort");
    until_names(&catalog, &["bad"]);
    let reason = |catalog: &Catalog| match &catalog.snapshot().entries["bad"].content {
        Content::Broken(reason) => Some(reason.clone()),
        Content::Usable(_) => None,
    };
    assert_eq!(reason(&catalog).as_deref(), Some("truncated"));
    setup.write("bad.gguf", &toy("whole"));
    until("mended", LISTED_WITHIN, || {
        catalog
            .snapshot()
            .entries
            .get("bad")
            .is_some_and(|entry| entry.summary().is_some())
    });
}

#[test]
fn folders_links_and_loops() {
    let setup = Setup::new();
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("real.gguf"), toy("elsewhere")).unwrap();
    setup.write("hf/config.json", "{}");
    setup.write("hf/model.safetensors", &toy("folder"));
    setup.write("a/in.gguf", &toy("a"));
    setup.write(".hidden/x.gguf", &toy("x"));
    setup.write("too/deep/for/a/model/x.gguf", &toy("x"));
    symlink(setup.models.path(), setup.path("a/loop")).unwrap();
    symlink("../a", setup.path("a/again")).unwrap();
    symlink(elsewhere.path().join("real.gguf"), setup.path("link.gguf")).unwrap();
    symlink(elsewhere.path(), setup.path("linked")).unwrap();
    symlink("/nonexistent/x.gguf", setup.path("lost.gguf")).unwrap();
    let catalog = setup.start();
    until_names(&catalog, &["a/in", "hf", "link", "linked/real", "lost"]);
    let entries = &catalog.snapshot().entries;
    assert!(matches!(&entries["lost"].content, Content::Broken(why) if why.contains("/nonexistent/x.gguf")));
    assert!(entries["hf"].summary().is_some());
    // A change of a link's target is seen too.
    fs::write(elsewhere.path().join("real.gguf"), "GOOD 99\nshort").unwrap();
    until("broken target", 2 * LISTED_WITHIN, || {
        catalog
            .snapshot()
            .entries
            .get("link")
            .is_some_and(|entry| entry.summary().is_none())
    });
}

#[test]
fn the_models_folder_may_come_and_go() {
    let setup = Setup::new();
    let folder = setup.path("later");
    let roots = vec![Root {
        path: folder.clone(),
        starter: false,
    }];
    let catalog = Catalog::start_with(roots, setup.state.path(), || false, inspect).unwrap();
    for round in 0..2 {
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("m.gguf"), toy("m")).unwrap();
        until_names(&catalog, &["m"]);
        fs::remove_dir_all(&folder).unwrap();
        until_names(&catalog, &[]);
        assert!(round < 2);
    }
}

#[test]
fn equal_names_and_odd_names() {
    use std::os::unix::ffi::OsStrExt;
    let setup = Setup::new();
    setup.write("m.gguf", &toy("file"));
    setup.write("m/config.json", "{}");
    setup.write("m/model.safetensors", &toy("folder"));
    setup.write("line\nbreak.gguf", &toy("x"));
    fs::write(
        setup
            .models
            .path()
            .join(std::ffi::OsStr::from_bytes(b"\xff.gguf")),
        toy("x"),
    )
    .unwrap();
    rustix_fifo(&setup.path("pipe.gguf"));
    let catalog = setup.start();
    until_names(&catalog, &["m", "m~2"]);
}

/// A pipe that nobody writes to: opening it would wait for ever.
fn rustix_fifo(path: &Path) {
    assert!(
        std::process::Command::new("mkfifo")
            .arg(path)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
fn digests_survive_moves_restarts_and_a_damaged_database() {
    let setup = Setup::new();
    setup.write("a.gguf", &toy("content"));
    let digest = |catalog: &Catalog, name: &str| catalog.snapshot().entries.get(name)?.digest.clone();
    let expected = blake3::hash(toy("content").as_bytes()).to_hex().to_string();
    let catalog = setup.start();
    until("hashed", Duration::from_secs(5), || {
        digest(&catalog, "a").as_ref() == Some(&expected)
    });
    drop(catalog);
    fs::rename(setup.path("a.gguf"), setup.path("b.gguf")).unwrap();
    let catalog = setup.start();
    assert_eq!(
        digest(&catalog, "b").as_ref(),
        Some(&expected),
        "known at once after a move and a restart"
    );
    drop(catalog);
    // Cut short, as by a full disk, and overwritten.
    let file = setup.state.path().join("catalog");
    let whole = fs::read(&file).unwrap();
    for broken in [
        &whole[..whole.len() / 2],
        &b"\xde\xad\xbe\xef".repeat(100)[..],
        b"",
    ] {
        fs::write(&file, broken).unwrap();
        let catalog = setup.start();
        until("hashed again", Duration::from_secs(5), || {
            digest(&catalog, "b").as_ref() == Some(&expected)
        });
        drop(catalog);
        assert_eq!(
            fs::read(setup.state.path().join("catalog.damaged")).unwrap(),
            broken
        );
        // It says the same but for the name, which has as many letters.
        assert_eq!(fs::read(&file).unwrap().len(), whole.len());
    }
}

#[test]
fn the_default_is_the_newest_usable_model_and_the_starter_only_alone() {
    let entry = |name: &str, age: u64, starter: bool, good: bool| Entry {
        name: name.into(),
        path: name.into(),
        files: Vec::new(),
        identity: Identity([0; 32]),
        bytes: 1,
        modified: std::time::SystemTime::now() - Duration::from_secs(age),
        starter,
        content: if good {
            Content::Broken("x".into())
        } else {
            Content::Broken("y".into())
        },
        digest: None,
    };
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.gguf"), toy("x")).unwrap();
    let usable = |mut entry: Entry| {
        entry.content = Content::Usable(Arc::new(inspect(&folder.path().join("x.gguf")).unwrap()));
        entry
    };
    let starter = usable(entry("hyprstream-starter", 0, true, true));
    let old = usable(entry("old", 100, false, true));
    let new = usable(entry("new", 50, false, true));
    let broken = entry("broken", 0, false, false);
    let snapshot = |entries: &[&Entry]| Snapshot {
        entries: names::unique(entries.iter().copied().cloned().collect()),
    };
    let default =
        |snapshot: &Snapshot, wanted| snapshot.default_model(wanted).map(|entry| entry.name.clone());
    let all = snapshot(&[&starter, &old, &new, &broken]);
    assert_eq!(default(&all, None).as_deref(), Some("new"));
    assert_eq!(default(&all, Some("old")).as_deref(), Some("old"));
    assert_eq!(
        default(&snapshot(&[&starter, &broken]), None).as_deref(),
        Some("hyprstream-starter")
    );
    assert_eq!(default(&snapshot(&[&broken]), None), None);
}
