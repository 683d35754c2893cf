//! Many requests of every kind, good, bad and abandoned, against one daemon. Invariant: afterwards it is as it was: no
//! block in use, no descriptor more, no memory more.
//!
//! A few hundred requests here; `tests/soak` runs thousands.
use hyprstream_tests::{Daemon, fixtures, wait, wire};
use serde_json::{Value, json};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const CLIENTS: usize = 8;
/// What the process may grow by between the middle and the end: the allocator's own unrest, not a leak. A leak of one
/// request's text or of one block's bookkeeping shows in `tests/soak`, whose thousands make more of it.
const GROWTH_MAX: u64 = 16 << 20;

/// What a request came to.
#[derive(Default)]
struct Tally {
    done: AtomicUsize,
    refused: AtomicUsize,
    left: AtomicUsize,
    busy: AtomicUsize,
}

impl Tally {
    fn count(&self, status: u16, ended: bool) {
        let which = match (status, ended) {
            (200, true) => &self.done,
            (200, false) => &self.left,
            (429 | 503, _) => &self.busy,
            _ => &self.refused,
        };
        which.fetch_add(1, Ordering::Relaxed);
    }
}

fn words(n: usize, count: usize) -> String {
    const WORDS: [&str; 8] = ["the", "sea", "wind", "seven", "captain", "answer", "ship", "one"];
    let word = |i: usize| WORDS[(n * 7 + i * (n % 5 + 1)) % WORDS.len()];
    (0..count).map(word).collect::<Vec<_>>().join(" ")
}

fn generate(prompt: &Value, max_tokens: u32, n: usize) -> Value {
    let priority = ["interactive", "normal", "batch"][n % 3];
    json!({"model": "tiny", "prompt": prompt, "priority": priority, "sampling": {"max_tokens": max_tokens, "seed": n}})
}

/// Reads an answer to its end.
fn read(daemon: &Daemon, path: &str, body: &Value, tally: &Tally) {
    let mut answer = wire::open(&daemon.socket(), path, body);
    let mut last = Value::Null;
    while let Some(event) = answer.event() {
        last = event;
    }
    tally.count(answer.status(), answer.status() != 200 || last["event"] == "done");
}

/// Reads so many events and hangs up.
fn leave(daemon: &Daemon, body: &Value, events: usize, tally: &Tally) {
    let mut answer = wire::open(&daemon.socket(), "/hyprstream/v1/generate", body);
    for _ in 0..events {
        answer.event();
    }
    tally.count(answer.status(), false);
}

/// Hangs up in the middle of the request.
fn break_off(daemon: &Daemon, tally: &Tally) {
    let mut stream = wire::connect(&daemon.socket()).unwrap();
    let head =
        "POST /hyprstream/v1/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n{\"mod";
    stream.write_all(head.as_bytes()).unwrap();
    tally.count(200, false);
}

/// Starts a long one and ends it by name.
fn cancel(daemon: &Daemon, n: usize, tally: &Tally) {
    let body = generate(&json!(words(n, 20)), 60000, n);
    let mut answer = wire::open(&daemon.socket(), "/hyprstream/v1/generate", &body);
    if answer.status() == 200 {
        let id = loop {
            match answer.event() {
                Some(event) if event["event"] == "started" => break event["id"].as_str().unwrap().to_owned(),
                Some(_) => {}
                None => return tally.count(200, false),
            }
        };
        let request = format!(
            "DELETE /hyprstream/v1/jobs/{id} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        );
        assert_eq!(
            wire::raw(&daemon.socket(), request.as_bytes()).unwrap().status,
            200
        );
        while answer.event().is_some() {}
    }
    tally.count(answer.status(), false);
}

fn one(daemon: &Daemon, n: usize, tally: &Tally) {
    let path = "/hyprstream/v1/generate";
    match n % 12 {
        0..=2 => read(daemon, path, &generate(&json!(words(n, 3)), 5, n), tally),
        3 => read(daemon, path, &generate(&json!(words(n % 4, 300)), 20, n), tally),
        4 => {
            let messages = json!([{"role": "user", "content": words(n % 3, 30)}]);
            let body = json!({"model": "tiny", "messages": messages, "sampling": {"max_tokens": 30}});
            read(daemon, "/hyprstream/v1/chat", &body, tally);
        }
        5 => leave(
            daemon,
            &generate(&json!(words(n, 40)), 60000, n),
            3 + n % 9,
            tally,
        ),
        6 => leave(daemon, &generate(&json!(words(n, 400)), 60000, n), 0, tally),
        7 => break_off(daemon, tally),
        8 => cancel(daemon, n, tally),
        9 => {
            let body = json!({"model": "tiny", "prompt": words(n, 60)});
            let reply = daemon.post("/hyprstream/v1/score", &body);
            tally.count(reply.status, true);
        }
        10 => read(
            daemon,
            path,
            &generate(&json!([1, 2, 4_000_000_000_u32]), 5, n),
            tally,
        ),
        _ => read(daemon, path, &generate(&json!(words(n, 20_000)), 5, n), tally),
    }
}

fn run(daemon: &Daemon, requests: std::ops::Range<usize>, tally: &Tally) {
    let next = AtomicUsize::new(requests.start);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= requests.end {
                        break;
                    }
                    one(daemon, n, tally);
                }
            });
        }
    });
    daemon.await_rest();
}

fn descriptors(daemon: &Daemon) -> usize {
    let folder = format!("/proc/{}/fd", daemon.pid());
    std::fs::read_dir(folder).unwrap().count()
}

fn resident(daemon: &Daemon) -> u64 {
    let status = daemon.get("/hyprstream/v1/status").json();
    status["memory"]["resident"].as_u64().unwrap()
}

#[test]
fn requests_of_every_kind_leave_nothing_behind() {
    let requests: usize = std::env::var("HYPRSTREAM_SOAK").map_or(600, |n| n.parse().unwrap());
    let config = "[runtime]\nthreads = 1\nkv_tokens = 4096\n";
    let daemon = Daemon::with(&[(fixtures::tiny(), "tiny.gguf")], config);
    let tally = Tally::default();
    // The first half touches every page that work of this kind needs.
    run(&daemon, 0..requests / 2, &tally);
    let (before, open) = (resident(&daemon), descriptors(&daemon));
    run(&daemon, requests / 2..requests, &tally);
    wait::until("no block is in use", || {
        let blocks = daemon.get("/hyprstream/v1/status").json()["kv_blocks"].clone();
        assert!(blocks["total"].as_u64().unwrap() > 0, "{blocks}");
        (blocks["in_use"] == 0).then_some(())
    });
    wait::within(Duration::from_secs(10), "the descriptors are closed", || {
        (descriptors(&daemon) <= open).then_some(())
    });
    let after = resident(&daemon);
    let [done, refused, left, busy] =
        [&tally.done, &tally.refused, &tally.left, &tally.busy].map(|count| count.load(Ordering::Relaxed));
    eprintln!(
        "{requests} requests: {done} done, {refused} refused, {left} left or cancelled, {busy} busy; resident {before} to \
         {after} bytes; {open} descriptors"
    );
    assert!(
        after <= before + GROWTH_MAX,
        "resident grew from {before} to {after}"
    );
    assert!(done >= requests / 3 && refused >= requests / 8 && left >= requests / 5);
    assert_eq!(done + refused + left + busy, requests);
    daemon.stop();
}
