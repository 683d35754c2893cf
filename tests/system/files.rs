//! Models that are put into the folder and taken out over HTTP. Invariant: what fails leaves the folder as it was, and what
//! runs when its model goes comes to its end and holds nothing then.
use hyprstream_tests::{Daemon, fixtures, wait, wire};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

const GENERATE: &str = "/hyprstream/v1/generate";

/// All files and folders below, sorted.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

fn head(method: &str, path: &str, length: usize) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
}

fn put(daemon: &Daemon, name: &str, bytes: &[u8]) -> wire::Reply {
    let head = head("PUT", &format!("/hyprstream/v1/models/{name}"), bytes.len());
    wire::raw(&daemon.socket(), &[head.as_bytes(), bytes].concat()).unwrap()
}

fn delete(daemon: &Daemon, name: &str) {
    let head = head("DELETE", &format!("/hyprstream/v1/models/{name}"), 0);
    let reply = wire::raw(&daemon.socket(), head.as_bytes()).unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[test]
fn a_pipe_is_no_model_file() {
    let daemon = Daemon::tiny();
    let pipe = daemon.folder().join("pipe");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let error = daemon.hyp(["install", pipe.to_str().unwrap()]).fails(1);
    assert!(error.contains("it is not a file"), "{error}");
    daemon.stop();
}

#[test]
fn an_install_that_fails_leaves_no_folder_of_its_own() {
    let daemon = Daemon::tiny();
    fs::create_dir_all(daemon.models().join("theirs/empty")).unwrap();
    let before = below(&daemon.models());
    for name in ["q/w/e/r", "theirs/q/r", "theirs/empty/r"] {
        let error = put(&daemon, name, b"junk").error(422);
        assert_eq!(error["code"], "model_broken");
        assert_eq!(below(&daemon.models()), before, "{name}");
        // It says that there is more, and leaves.
        let mut stream = wire::connect(&daemon.socket()).unwrap();
        let head = head("PUT", &format!("/hyprstream/v1/models/{name}"), 1000);
        stream.write_all(head.as_bytes()).unwrap();
        wait::until("the copy begins", || {
            (below(&daemon.models()) != before).then_some(())
        });
        drop(stream);
        wait::until("nothing of it is left", || {
            (below(&daemon.models()) == before).then_some(())
        });
    }
    let tiny = fs::read(fixtures::tiny()).unwrap();
    assert_eq!(put(&daemon, "q/w/e/r", &tiny).status, 200);
    assert!(daemon.models().join("q/w/e/r.gguf").exists());
    daemon.stop();
}

/// Waits until nothing runs, waits, or is held: no cache, no model in memory, none of its budget.
fn await_nothing(daemon: &Daemon, after: &str) {
    wait::until(&format!("after an answer that {after}, nothing is held"), || {
        let status = daemon.get("/hyprstream/v1/status").json();
        let counts = [
            "/running",
            "/queued",
            "/kv_blocks/total",
            "/kv_blocks/in_use",
            "/memory/claimed",
        ];
        let none = counts.iter().all(|at| status.pointer(at) == Some(&json!(0)));
        (none && status["loaded"] == json!([]) && daemon.jobs().is_empty()).then_some(())
    });
}

/// Reads on until the answer is over.
fn end(answer: &mut wire::Answer) -> Value {
    let over = |event: &Value| event["event"] == "done" || failed(event);
    std::iter::from_fn(|| answer.event())
        .find(over)
        .expect("an answer has an end")
}

/// Whether it is an error: of an answer that had begun, or of one that had not.
fn failed(event: &Value) -> bool {
    event["event"] == "error" || !event["error"].is_null()
}

/// Whether the file was gone before the load could open it.
fn lost(end: &Value) -> bool {
    end["code"] == "model_broken" || end["error"]["code"] == "model_broken"
}

#[test]
fn a_model_that_is_deleted_while_it_answers_leaves_nothing_behind() {
    let config = "[runtime]\nthreads = 1\nkv_tokens = 262144\n[limits]\nstall = \"500ms\"\n";
    let daemon = Daemon::with(&[], config);
    let tiny = fs::read(fixtures::tiny()).unwrap();
    let body = |max: u32| json!({"model": "m", "prompt": "hello", "sampling": {"max_tokens": max, "ignore_eos": true}});
    for way in ["ends", "hangs up", "is cancelled", "is not read"] {
        // Deleted when its load begins, and when its first token is there.
        for loaded in [false, true] {
            assert_eq!(put(&daemon, "m", &tiny).status, 200);
            let max = if way == "ends" { 800 } else { 60_000 };
            let mut answer = wire::open(&daemon.socket(), GENERATE, &body(max));
            if loaded {
                answer.await_event("token");
            }
            delete(&daemon, "m");
            match way {
                "ends" => {
                    let end = end(&mut answer);
                    if loaded || !lost(&end) {
                        assert_eq!(end["usage"]["completion_tokens"], 800, "{end}");
                    }
                }
                "is cancelled" => {
                    for job in daemon.jobs() {
                        let cancelled = daemon.hyp(["cancel", job["id"].as_str().unwrap()]);
                        if loaded {
                            cancelled.ok();
                        }
                    }
                    let end = end(&mut answer);
                    assert!(failed(&end), "{end}");
                }
                "hangs up" => drop(answer),
                _ => {}
            }
            await_nothing(&daemon, way);
        }
    }
    daemon.stop();
}
