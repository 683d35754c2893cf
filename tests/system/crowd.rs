//! Many clients, and clients that go away. Invariant: nobody's answer depends on who else is there, and who is gone costs
//! nothing.
use hyprstream_tests::{Daemon, Ended, Running, fixtures, wait, wire};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;

/// An answer of this length takes far longer than a test waits for its middle.
const ENDLESS: &str = "60000";
/// From the end of a client to the end of its job.
const GONE_MAX: Duration = Duration::from_secs(2);

fn with_limits(limits: &str) -> Daemon {
    let config = format!("[runtime]\nthreads = 1\nkv_tokens = 262144\n[limits]\n{limits}\n");
    Daemon::with(&[(fixtures::tiny(), "tiny.gguf")], &config)
}

/// `hyp ask` without end, after its first token.
fn endless(daemon: &Daemon) -> Running {
    let args = [
        "ask",
        "-m",
        "tiny",
        "-t",
        "0.5",
        "--json",
        "--max-tokens",
        ENDLESS,
        "hello",
    ];
    let running = Running::start(&mut daemon.command(args));
    wait::until("the first token", || {
        running.output().contains("\"token\"").then_some(())
    });
    running
}

fn endless_body() -> Value {
    json!({"model": "tiny", "prompt": "hello", "sampling": {"max_tokens": 60000, "logprobs": 20}})
}

#[test]
fn eight_clients_at_once_get_what_each_would_get_alone() {
    let config = "[runtime]\nthreads = 2\nkv_cache = \"f32\"\n";
    let daemon = Daemon::with(&[(fixtures::tiny_folder(), "tiny-hf")], config);
    let prompts = [
        "hello",
        "one two three",
        "what is the answer to this question",
        "the sea and the wind and the captain",
        "seven",
        "how are you",
        "ten nine eight seven six five four three two one",
        "the ship, the ship, the ship",
    ];
    let args = |prompt| ["ask", "-m", "tiny-hf", "-t", "0", "--max-tokens", "120", prompt];
    let alone: Vec<String> = prompts
        .iter()
        .map(|prompt| daemon.hyp(args(prompt)).ok())
        .collect();
    for _ in 0..3 {
        let running: Vec<Running> = prompts
            .iter()
            .map(|prompt| Running::start(&mut daemon.command(args(prompt))))
            .collect();
        let together: Vec<String> = running.into_iter().map(|running| running.end().ok()).collect();
        assert_eq!(together, alone);
    }
    daemon.stop();
}

#[test]
fn several_requests_share_the_engine_and_are_listed() {
    let daemon = with_limits("");
    let _running: Vec<Running> = (0..3).map(|_| endless(&daemon)).collect();
    let jobs = daemon.jobs();
    assert_eq!(jobs.len(), 3);
    for job in &jobs {
        assert_eq!(
            (&job["kind"], &job["state"], &job["model"]),
            (&json!("chat"), &json!("running"), &json!("tiny"))
        );
    }
    let status = daemon.hyp(["status", "--json"]).json();
    assert_eq!(status["running"], 3);
    let listed = daemon.hyp(["ps"]).ok();
    assert!(listed.contains(jobs[0]["id"].as_str().unwrap()), "{listed}");
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "4", "hello"])
        .ok();
}

#[test]
fn a_killed_client_frees_its_job() {
    let daemon = with_limits("");
    let running = endless(&daemon);
    let other = endless(&daemon);
    assert_eq!(daemon.jobs().len(), 2);
    running.signal(Signal::KILL);
    wait::within(GONE_MAX, "the killed client's job is gone", || {
        (daemon.jobs().len() == 1).then_some(())
    });
    let before = daemon.jobs()[0]["completion_tokens"].as_u64().unwrap();
    wait::until("the other goes on", || {
        (daemon.jobs()[0]["completion_tokens"].as_u64().unwrap() > before).then_some(())
    });
    drop(other);
    daemon.await_rest();
    daemon.stop();
}

#[test]
fn ctrl_c_stops_the_generation_too() {
    let daemon = with_limits("");
    let running = endless(&daemon);
    running.signal(Signal::INT);
    let ended: Ended = running.end();
    assert_eq!(ended.code, Some(130), "{}", ended.err);
    wait::within(GONE_MAX, "the job is gone", || {
        daemon.jobs().is_empty().then_some(())
    });
    daemon.stop();
}

#[test]
fn a_job_can_be_cancelled_from_elsewhere() {
    let daemon = with_limits("");
    let running = endless(&daemon);
    let id = daemon.jobs()[0]["id"].as_str().unwrap().to_owned();
    daemon.hyp(["cancel", &id]).ok();
    let ended = running.end();
    assert_eq!(ended.code, Some(130), "{}", ended.err);
    daemon.await_rest();
    daemon.hyp(["cancel", &id]).fails(7);
    daemon.stop();
}

#[test]
fn a_full_queue_says_busy_and_when_to_come_back() {
    let daemon = with_limits("queue_max = 1\nsequences_max = 1");
    let path = "/hyprstream/v1/generate";
    let mut first = wire::open(&daemon.socket(), path, &endless_body());
    first.await_event("token");
    let second = Running::start(&mut daemon.command(["ask", "-m", "tiny", "--max-tokens", "4", "hello"]));
    wait::until("one runs and one waits", || {
        let status = daemon.get("/hyprstream/v1/status").json();
        (status["running"] == 1 && status["queued"] == 1).then_some(())
    });
    let reply = daemon.post(path, &endless_body());
    let error = reply.error(429);
    assert_eq!(error["code"], "busy");
    assert!(error["retry_ms"].as_u64().unwrap() > 0, "{error}");
    assert!(
        reply.head.to_ascii_lowercase().contains("retry-after:"),
        "{}",
        reply.head
    );
    let said = daemon.hyp(["ask", "-m", "tiny", "hello"]).fails(4);
    assert!(said.contains("try again"), "{said}");
    drop(first);
    second.end().ok();
    daemon.await_rest();
    daemon.stop();
}

#[test]
fn memory_of_large_requests_goes_back_to_the_system() {
    let daemon = with_limits("");
    let anonymous_kib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let before = anonymous_kib();
    let body = json!({"model": "nobody", "prompt": "a".repeat(7 << 20)});
    std::thread::scope(|scope| {
        for _ in 0..24 {
            scope.spawn(|| daemon.post("/hyprstream/v1/generate", &body).error(404));
        }
    });
    wait::until("at most 16 MiB more than before are held", || {
        (anonymous_kib() < before + (16 << 10)).then_some(())
    });
    daemon.stop();
}

#[test]
fn a_client_that_does_not_read_loses_its_answer() {
    let daemon = with_limits("stall = \"500ms\"");
    let mut deaf = wire::open(&daemon.socket(), "/hyprstream/v1/generate", &endless_body());
    deaf.await_event("token");
    wait::until("the deaf client's job is gone", || {
        daemon.jobs().is_empty().then_some(())
    });
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "4", "hello"])
        .ok();
    drop(deaf);
    daemon.stop();
}

#[test]
fn a_daemon_stopped_mid_stream_says_so() {
    let mut daemon = with_limits("drain = \"200ms\"");
    let running = endless(&daemon);
    let mut stream = wire::open(&daemon.socket(), "/hyprstream/v1/generate", &endless_body());
    stream.await_event("token");
    let reader = std::thread::spawn(move || stream.await_event("error"));
    daemon.signal(Signal::TERM);
    let error = reader.join().unwrap();
    assert_eq!(error["code"], "stopping", "{error}");
    let ended = running.end();
    assert_eq!(ended.code, Some(3), "{}", ended.err);
    assert!(ended.err.contains("stopping"), "{}", ended.err);
    assert_eq!(daemon.ended().code(), Some(0), "{}", daemon.log());
    daemon.hyp(["ask", "hello"]).fails(3);
}

#[test]
fn a_stopping_daemon_lets_short_answers_end() {
    let mut daemon = with_limits("drain = \"20s\"");
    let body = json!({"model": "tiny", "prompt": "hello", "sampling": {"max_tokens": 1500}});
    let mut stream = wire::open(&daemon.socket(), "/hyprstream/v1/generate", &body);
    stream.await_event("token");
    daemon.signal(Signal::TERM);
    let done = stream.await_event("done");
    assert_eq!(done["usage"]["completion_tokens"], 1500);
    assert_eq!(daemon.ended().code(), Some(0), "{}", daemon.log());
}
