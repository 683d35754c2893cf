//! Who may import whom. Invariant: imports go down only, and a crate that is not in the table does not exist.
use hyprstream_tests::fixtures::root;
use std::fs;
use toml::{Table, Value};

/// Folder, name, and which of our own crates it may import. Lower crates come first.
const CRATES: &[(&str, &str, &[&str])] = &[
    ("client/protocol", "hyprstream-protocol", &[]),
    ("kernels", "hyprstream-kernels", &[]),
    ("daemon/crates/model", "hyprstream-model", &["hyprstream-kernels"]),
    (
        "daemon/crates/engine",
        "hyprstream-engine",
        &["hyprstream-kernels", "hyprstream-model", "hyprstream-protocol"],
    ),
    (
        "daemon",
        "hyprstreamd",
        &[
            "hyprstream-engine",
            "hyprstream-kernels",
            "hyprstream-model",
            "hyprstream-protocol",
        ],
    ),
    ("client", "hyprstream-client", &["hyprstream-protocol"]),
    (
        "client/capi",
        "hyprstream-capi",
        &["hyprstream-client", "hyprstream-protocol"],
    ),
    ("tests", "hyprstream-tests", &[]),
];

/// Async stays in the daemon: these, and whatever begins like them, are nobody else's.
const ASYNC: &[&str] = &["tokio", "axum", "hyper", "futures", "interprocess", "zbus"];

fn manifest(folder: &str) -> Table {
    let path = root().join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap()
}

fn dependencies(manifest: &Table) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
        if let Some(table) = manifest.get(section).and_then(Value::as_table) {
            all.extend(table.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
    }
    assert!(
        !manifest.contains_key("target"),
        "dependencies by target are not looked at here: extend this test"
    );
    all
}

#[test]
fn every_crate_is_in_the_table() {
    let workspace = manifest(".");
    let mut members: Vec<&str> = workspace["workspace"]["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m.as_str().unwrap())
        .collect();
    let mut known: Vec<&str> = CRATES.iter().map(|(folder, ..)| *folder).collect();
    members.sort_unstable();
    known.sort_unstable();
    assert_eq!(members, known);
    for (folder, name, _) in CRATES {
        assert_eq!(manifest(folder)["package"]["name"].as_str(), Some(*name));
    }
}

#[test]
fn imports_go_down_only() {
    for (folder, name, allowed) in CRATES {
        for (dependency, _) in dependencies(&manifest(folder)) {
            let ours = CRATES.iter().any(|(_, crate_name, _)| *crate_name == dependency);
            assert!(
                !ours || allowed.contains(&dependency.as_str()),
                "{name} may not import {dependency}"
            );
        }
    }
}

#[test]
fn async_stays_in_the_daemon() {
    for (folder, name, _) in CRATES.iter().filter(|(folder, ..)| *folder != "daemon") {
        for (dependency, _) in dependencies(&manifest(folder)) {
            assert!(
                !ASYNC.iter().any(|word| dependency.starts_with(word)),
                "{name} imports {dependency}"
            );
        }
    }
}

#[test]
fn versions_and_lints_stand_at_the_root_alone() {
    for (folder, name, _) in CRATES {
        let manifest = manifest(folder);
        assert_eq!(
            manifest["lints"]["workspace"].as_bool(),
            Some(true),
            "{name} has lints of its own"
        );
        for key in ["version", "edition", "rust-version", "license"] {
            assert_eq!(
                manifest["package"][key]["workspace"].as_bool(),
                Some(true),
                "{name}: {key}"
            );
        }
        for (dependency, value) in dependencies(&manifest) {
            let inherits = value.get("workspace").and_then(Value::as_bool) == Some(true);
            assert!(
                inherits,
                "{name}: the version of {dependency} belongs into the root's [workspace.dependencies]"
            );
        }
    }
}
