//! `hyp bench`: what it asks of the daemon, and what it makes of the answers.
use crate::fake::{Fake, Home, Peer, STARTED, Seen, text, token};
use hyprstream_protocol::{ErrorBody, ErrorCode};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const MODELS: &str = r#"{"models":[],"default":"a/m"}"#;
const MODEL: &str = r#"{"name":"a/m","state":"available","format":"Q4_K","context":300,"bytes":12,"modified_s":0,
    "path":"/m/m.gguf","digest":null,"memory_needed":5,"shape":{"vocab":1000},"tokenizer":null,"chat_template":null}"#;

fn status(running: u32) -> String {
    json!({"version": "0.1.0", "pid": 5, "uptime_s": 61, "state": "ready", "models_dirs": ["/m"], "default_model": null,
        "loaded": [], "running": running, "queued": 0, "queue_max": 64, "threads": 2, "isa": "avx2",
        "memory": {"budget": 3, "claimed": 2, "resident": 123_000_000, "private": 45_000_000}})
    .to_string()
}

const PACKING: &str = r#"{"event":"loading","model":"a/m","stage":"packing","progress":0.5}"#;

/// A daemon with one model, which packs its weights in the first load.
fn serve(home: &Home, running: u32, answer: fn(&Seen, &mut Peer)) -> Fake {
    serve_model(home, MODEL.to_owned(), running, answer)
}

fn serve_model(home: &Home, model: String, running: u32, answer: fn(&Seen, &mut Peer)) -> Fake {
    let packed = AtomicBool::new(false);
    home.serve(move |seen, peer| {
        match seen.line.as_str() {
            "GET /hyprstream/v1/models" => peer.reply(200, MODELS),
            "GET /hyprstream/v1/models/a%2Fm" => peer.reply(200, &model),
            "GET /hyprstream/v1/status" => peer.reply(200, &status(running)),
            "POST /hyprstream/v1/unload" => peer.reply(200, r#"{"model":"a/m","was_loaded":true}"#),
            "POST /hyprstream/v1/load" => {
                peer.begin_stream();
                if !packed.swap(true, Relaxed) {
                    peer.event(PACKING);
                }
                peer.end_stream();
            }
            "POST /hyprstream/v1/generate" => answer(seen, peer),
            // Nothing else is asked: `hyp` fails at a connection that ends.
            _ => {}
        }
        true
    })
}

fn as_asked(seen: &Seen, peer: &mut Peer) {
    peer.begin_stream();
    peer.event(STARTED);
    let tokens = seen.body["sampling"]["max_tokens"].as_u64().unwrap();
    for _ in 0..tokens {
        peer.event(&token(""));
        std::thread::sleep(Duration::from_millis(1));
    }
    peer.end_stream();
}

fn calls<'a>(seen: &'a [Seen], route: &str) -> Vec<&'a Seen> {
    seen.iter().filter(|seen| seen.line.ends_with(route)).collect()
}

#[test]
fn every_figure_is_measured_and_printed() {
    let home = Home::new();
    let fake = serve(&home, 0, as_asked);
    let output = home.hyp(&["bench", "--runs", "2"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let rows: Vec<Vec<&str>> = text(&output.stdout)
        .lines()
        .map(|line| line.split('\t').collect())
        // Not every machine has it.
        .filter(|row: &Vec<&str>| row[0] != "energy, 16 streams")
        .collect();
    let named: Vec<(&str, &str)> = rows.iter().map(|row| (row[0], row[2])).collect();
    // Half of the context of 300 is left for prompts.
    assert_eq!(
        named,
        [
            ("load, first", "ms"),
            ("load, again", "ms"),
            ("prefill 150", "tok/s"),
            ("first token after 128", "ms"),
            ("decode 1 stream", "tok/s"),
            ("decode 4 streams", "tok/s"),
            ("decode 8 streams", "tok/s"),
            ("decode 16 streams", "tok/s"),
            ("gap of 4 streams, p95", "ms"),
            ("gap while 150 are read, p95", "ms"),
            ("gap, ratio of the two", "x"),
            ("memory of the daemon", "MB"),
            ("private memory of the daemon", "MB"),
        ]
    );
    for row in &rows[..4] {
        assert!(row[1].parse::<f64>().unwrap() > 0.0, "{row:?}");
    }
    let number = |text: &str| text.parse::<f64>().unwrap();
    assert!(number(rows[2][3]) <= number(rows[2][1]) && number(rows[2][1]) <= number(rows[2][4]));
    assert!(number(rows[8][1]) >= 1.0 && number(rows[9][1]) > 0.0, "{rows:?}");
    assert_eq!((rows[11][1], rows[12][1]), ("123", "45"));

    let seen = fake.seen.lock().unwrap();
    assert_eq!(
        (calls(&seen, "/unload").len(), calls(&seen, "/load").len()),
        (2, 2)
    );
    let asked = calls(&seen, "/generate");
    let short = |call: &&&Seen| call.body["sampling"]["max_tokens"] == 1;
    // One to warm up and one to see how long a prompt may be; two prompts and one beside others, twice.
    assert_eq!(asked.iter().filter(short).count(), 2 + 2 * 3);
    // 1 + 4 + 8 + 16 streams, more if they did not run all at once, and four beside a prompt, twice.
    assert!(asked.len() >= 2 + 2 * (3 + 29 + 4), "{}", asked.len());
    let mut prompts = BTreeSet::new();
    for call in asked {
        let sampling = &call.body["sampling"];
        assert_eq!(
            (
                &call.body["model"],
                &sampling["temperature"],
                &sampling["ignore_eos"],
                &sampling["speculation"]
            ),
            (&json!("a/m"), &json!(0.0), &json!(true), &json!(false))
        );
        assert!(
            prompts.insert(call.body["prompt"].to_string()),
            "a prompt came twice"
        );
    }
}

#[test]
fn a_daemon_at_work_keeps_its_model() {
    let home = Home::new();
    let fake = serve(&home, 1, as_asked);
    let output = home
        .hyp(&["bench", "-m", "a/m", "--runs", "1", "--json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (
            &found["model"],
            &found["format"],
            &found["threads"],
            &found["isa"]
        ),
        (&json!("a/m"), &json!("Q4_K"), &json!(2), &json!("avx2"))
    );
    let figures = found["figures"].as_array().unwrap();
    assert_eq!(figures[0]["name"], "prefill 150");
    assert_eq!(figures[0]["runs"].as_array().unwrap().len(), 1);
    assert_eq!(figures[0]["median"], figures[0]["runs"][0]);
    let seen = fake.seen.lock().unwrap();
    assert_eq!(
        (calls(&seen, "/unload").len(), calls(&seen, "/load").len()),
        (0, 1)
    );
}

#[test]
fn a_figure_that_cannot_be_taken_is_empty() {
    let home = Home::new();
    // One token an answer: there is no time between tokens.
    let _fake = serve(&home, 0, |_, peer| {
        peer.begin_stream();
        peer.event(&token(""));
        peer.end_stream();
    });
    let output = home.hyp(&["bench", "--runs", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("decode 1 stream\t\ttok/s\t\t\n"));
    assert!(text(&output.stdout).contains("gap of 4 streams, p95\t\tms\t\t\n"));
}

/// The reasons that `hyp bench --json` gives, by the figures' names.
fn missing(home: &Home) -> BTreeMap<String, String> {
    let output = home.hyp(&["bench", "--runs", "1", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let figures = found["figures"].as_array().unwrap().iter();
    figures
        .filter_map(|figure| {
            let why = figure["missing"].as_str()?;
            assert_eq!((&figure["median"], &figure["runs"]), (&Value::Null, &json!([])));
            Some((figure["name"].as_str()?.to_owned(), why.to_owned()))
        })
        .collect()
}

#[test]
fn a_long_prompt_is_as_long_as_the_daemon_takes() {
    let home = Home::new();
    let model = MODEL.replace("300", "4000");
    let _fake = serve_model(&home, model, 0, |seen, peer| {
        if seen.body["prompt"].as_array().unwrap().len() > 600 {
            let error = ErrorBody::new(ErrorCode::ContextExceeded, "there is room for 600");
            return peer.error(&error);
        }
        as_asked(seen, peer);
    });
    let output = home.hyp(&["bench", "--runs", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("gap while 500 are read, p95\t"),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn what_is_missing_has_its_reason() {
    let home = Home::new();
    let _fake = serve(&home, 0, |seen, peer| {
        let tokens = seen.body["sampling"]["max_tokens"].as_u64().unwrap();
        if tokens == 1 {
            return as_asked(seen, peer);
        }
        // One at a time, the others wait.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap();
        peer.begin_stream();
        for _ in 0..if tokens > 100 { 1 } else { 3 } {
            peer.event(&token(""));
        }
        let timings = r#"{"queue_ms":9.0,"prefill_ms":1.0,"decode_ms":2.0}"#;
        let usage = r#"{"prompt_tokens":3,"completion_tokens":2}"#;
        peer.event(&format!(
            r#"{{"event":"done","reason":"stop","usage":{usage},"timings":{timings}}}"#
        ));
        peer.raw(b"0\r\n\r\n");
        std::thread::sleep(Duration::from_millis(5));
    });
    let first = missing(&home);
    assert!(first["decode 16 streams"].contains("sequences_max"), "{first:?}");
    assert!(
        first["gap while 150 are read, p95"].contains("ended"),
        "{first:?}"
    );
    assert!(!first.contains_key("load, first"), "{first:?}");
    // Now what was packed is there.
    let second = missing(&home);
    assert!(second["load, first"].contains("packed"), "{second:?}");
}

#[test]
fn what_the_daemon_refuses_is_told() {
    let home = Home::new();
    let _fake = serve(&home, 0, |_, peer| {
        peer.begin_stream();
        peer.event(r#"{"event":"error","code":"busy","message":"64 requests wait","retry_ms":1000}"#);
        peer.raw(b"0\r\n\r\n");
    });
    let output = home.hyp(&["bench"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "");
    let output = home.hyp(&["bench", "--runs", "0"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("from 1 to 99"));
}

#[test]
fn an_answer_that_breaks_off_is_a_failure() {
    let home = Home::new();
    let _fake = serve(&home, 0, |_, peer| {
        peer.begin_stream();
        peer.event(&token(""));
    });
    let output = home.hyp(&["bench"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
}
