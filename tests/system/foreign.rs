//! Clients that were not written here: curl and the `openai` package. Invariant: where one is absent, the test says that it
//! was skipped.
use hyprstream_tests::{Daemon, Running, fixtures, program};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn curl(daemon: &Daemon, args: &[&str]) -> Option<String> {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--max-time", "30", "--unix-socket"])
        .arg(daemon.socket())
        .args(args);
    if Command::new("curl")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        fixtures::skipped("curl as a client: it is absent");
        return None;
    }
    Some(program::run(&mut command).ok())
}

const JSON: [&str; 2] = ["--header", "content-type: application/json"];

#[test]
fn curl_lists_asks_and_streams() {
    let daemon = Daemon::tiny();
    let Some(models) = curl(&daemon, &["http://localhost/v1/models"]) else {
        return;
    };
    let models: Value = serde_json::from_str(&models).unwrap();
    assert!(
        models["data"]
            .as_array()
            .unwrap()
            .iter()
            .any(|model| model["id"] == "tiny"),
        "{models}"
    );

    let body = r#"{"model": "tiny", "max_tokens": 5, "temperature": 0, "messages": [{"role": "user", "content": "hello"}]}"#;
    let ask = |body: &str| {
        curl(
            &daemon,
            &[
                &JSON[..],
                &["--data", body, "http://localhost/v1/chat/completions"],
            ]
            .concat(),
        )
        .unwrap()
    };
    let whole: Value = serde_json::from_str(&ask(body)).unwrap();
    let text = whole["choices"][0]["message"]["content"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        (
            &whole["usage"]["completion_tokens"],
            &whole["choices"][0]["finish_reason"]
        ),
        (&5.into(), &"length".into())
    );

    let stream = ask(&body.replace("{\"model\"", "{\"stream\": true, \"model\""));
    let events: Vec<&str> = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    assert_eq!(events.last(), Some(&"[DONE]"), "{stream}");
    let pieces: Vec<Value> = events[..events.len() - 1]
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    let said: String = pieces
        .iter()
        .filter_map(|p| p["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, text);
    daemon.stop();
}

#[test]
fn curl_reads_ndjson_and_the_request_id() {
    let daemon = Daemon::tiny();
    let body = r#"{"model": "tiny", "prompt": "hello", "sampling": {"max_tokens": 3}}"#;
    let url = "http://localhost/hyprstream/v1/generate";
    let args = [
        &JSON[..],
        &[
            "--include",
            "--header",
            "x-request-id: my-own-id",
            "--data",
            body,
            url,
        ],
    ]
    .concat();
    let Some(reply) = curl(&daemon, &args) else { return };
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(
        head.to_ascii_lowercase().contains("x-request-id: my-own-id"),
        "{head}"
    );
    let events: Vec<Value> = body
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        events
            .iter()
            .any(|event| event["event"] == "started" && event["id"] == "my-own-id"),
        "{body}"
    );
    assert_eq!(events.last().unwrap()["event"], "done");
    daemon.stop();
}

/// The Python with `openai` that tests/run made; `HYPRSTREAM_PYTHON` names another.
pub fn python() -> Option<PathBuf> {
    let python = match std::env::var_os("HYPRSTREAM_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => fixtures::root().join("target/openai/bin/python"),
    };
    if python.is_file() {
        return Some(python);
    }
    fixtures::skipped("the openai package as a client: tests/run could not install it");
    None
}

#[test]
fn the_openai_package_gets_what_it_expects() {
    let Some(python) = python() else { return };
    let models = [
        (fixtures::tiny(), "tiny.gguf"),
        (fixtures::arch("qwen3", "hf"), "plain"),
    ];
    let daemon = Daemon::with(&models, "");
    let mut command = program::command(&python, daemon.folder());
    command
        .arg(fixtures::root().join("tests/clients/openai_client.py"))
        .arg(daemon.socket());
    let ended = Running::start(&mut command).end();
    assert_eq!(ended.code, Some(0), "{}\n{}", ended.out, ended.err);
    assert!(ended.out.ends_with("all well\n"), "{}", ended.out);
    daemon.stop();
}
