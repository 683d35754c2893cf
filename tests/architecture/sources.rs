//! What a source file looks like. Invariant: exceptions are listed here, each with its reason.
use hyprstream_tests::fixtures::root;
use std::fs;
use std::path::{Path, PathBuf};

/// A file this long holds more than one concept.
const LINES_MAX: usize = 600;

/// Where `unsafe` may stand: arithmetic with its tests and benches, the one file that maps a model into memory, the pointers of
/// the C library, and the allocator of the test that counts allocations.
const UNSAFE: &[&str] = &[
    "kernels/",
    "daemon/crates/model/src/map.rs",
    "client/capi/src/arguments.rs",
    "client/capi/src/exports.rs",
    "daemon/crates/engine/tests/allocations.rs",
];

/// Roots of crates that promise not to use `unsafe` at all.
const FORBID: &[&str] = &[
    "client/protocol/src/lib.rs",
    "client/src/lib.rs",
    "client/src/main.rs",
    "daemon/crates/engine/src/lib.rs",
    "tests/src/lib.rs",
];

/// Roots of crates where single files may allow it.
const DENY: &[&str] = &[
    "client/capi/src/lib.rs",
    "daemon/crates/model/src/lib.rs",
    "daemon/src/main.rs",
];

/// Names that say nothing.
const VAGUE: &[&str] = &[
    "util", "utils", "helper", "helpers", "common", "misc", "manager", "shared", "stuff",
];

fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    walk(&root(), &mut found);
    assert!(found.len() > 20, "only {} source files found", found.len());
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && !name.starts_with('.') {
                walk(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_file_opens_with_its_purpose() {
    let bare = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(name, _)| name);
    assert_eq!(
        bare.collect::<Vec<_>>(),
        [""; 0],
        "files that do not begin with a //! line"
    );
}

#[test]
fn no_file_is_too_long() {
    let long = sources()
        .into_iter()
        .filter(|(_, text)| text.lines().count() > LINES_MAX)
        .map(|(name, _)| name);
    assert_eq!(
        long.collect::<Vec<_>>(),
        [""; 0],
        "files with more than {LINES_MAX} lines"
    );
}

#[test]
fn names_say_what_is_inside() {
    for (name, _) in sources() {
        let stem = Path::new(&name).file_stem().unwrap().to_str().unwrap();
        let folder = Path::new(&name)
            .parent()
            .and_then(Path::file_name)
            .map_or("", |f| f.to_str().unwrap());
        assert!(
            !VAGUE.contains(&stem) && !VAGUE.contains(&folder),
            "{name}: name it after its contents"
        );
    }
}

#[test]
fn unsafe_stays_where_it_is_promised() {
    for (name, text) in sources() {
        if UNSAFE.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap();
            let found = ["{", "fn", "impl", "trait", "extern"].iter().any(|next| {
                code.split("unsafe")
                    .skip(1)
                    .any(|rest| rest.trim_start().starts_with(next) && rest.starts_with(' '))
            });
            assert!(!found, "{name}:{}: unsafe code", number + 1);
        }
    }
    let attribute = |file: &str, level: &str| {
        let text = fs::read_to_string(root().join(file)).unwrap();
        assert!(
            text.contains(&format!("#![{level}(unsafe_code)]")),
            "{file}: #![{level}(unsafe_code)] is missing"
        );
    };
    FORBID.iter().for_each(|file| attribute(file, "forbid"));
    DENY.iter().for_each(|file| attribute(file, "deny"));
}

#[test]
fn accelerators_are_named_in_kernels_alone() {
    // Put together here, so that this file passes its own test.
    let word = ["cu", "da"].concat();
    for (name, text) in sources() {
        if !name.starts_with("kernels/") {
            assert!(!text.to_lowercase().contains(&word), "{name} names {word}");
        }
    }
}

#[test]
fn prompts_are_not_logged() {
    // The journal is readable to administrators; what people ask is not theirs. Fields of log lines that could carry it:
    let carriers = [
        "prompt =",
        "prompt=",
        "%prompt",
        "?prompt",
        "?text",
        "%text",
        "?messages",
        "%content",
        "?content",
    ];
    for (name, text) in sources()
        .into_iter()
        .filter(|(name, _)| name.starts_with("daemon/"))
    {
        for (number, line) in text.lines().enumerate() {
            let logs = ["info!(", "warn!(", "error!(", "debug!(", "trace!("]
                .iter()
                .any(|call| line.contains(call));
            let carries = carriers.iter().any(|field| line.contains(field));
            assert!(
                !(logs && carries),
                "{name}:{}: a prompt in a log line",
                number + 1
            );
        }
    }
}
