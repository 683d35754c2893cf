//! The TCP door: who gets in, who does not, and that those outside cost those inside nothing.
use hyprstream_tests::{Daemon, fixtures, program, wait, wire};
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LAPTOP: &str = "laptop-0123456789abcdef";
const PHONE: &str = "phone-0123456789abcdef";
const GENERATE: &str = "/hyprstream/v1/generate";

/// A daemon with a TCP door, and where that is.
struct Open {
    daemon: Daemon,
    at: SocketAddr,
    _tokens: TempDir,
}

fn tokens_file(folder: &Path, mode: u32) -> PathBuf {
    let path = folder.join("tokens");
    fs::write(&path, format!("laptop {LAPTOP}\nphone {PHONE}\n")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

fn open(config: &str) -> Open {
    let folder = tempfile::tempdir().unwrap();
    let tokens = tokens_file(folder.path(), 0o600);
    let config = format!(
        "[tcp]\nlisten = \"127.0.0.1:0\"\nhosts = \"llm.example.org\"\ntokens = \"{}\"\n{config}",
        tokens.display()
    );
    let models = [
        (fixtures::tiny(), "tiny.gguf"),
        (fixtures::arch("qwen3", "hf"), "plain"),
    ];
    let daemon = Daemon::with(&models, &config);
    let at = wait::until("the journal names the address", || {
        let log = daemon.log();
        let (_, rest) = log.split_once("TCP at ")?;
        rest.split(',').next()?.parse().ok()
    });
    Open {
        daemon,
        at,
        _tokens: folder,
    }
}

impl Open {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_read_timeout(Some(wait::SOON)).unwrap();
        stream.set_write_timeout(Some(wait::SOON)).unwrap();
        stream
    }

    /// What comes back to these bytes until the daemon closes; an abrupt end counts as one.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        let _ = stream.write_all(bytes);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        String::from_utf8_lossy(&reply).into_owned()
    }

    /// The status and JSON of an answer to a request with these headers.
    fn ask(&self, request: &str, headers: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let reply = self.raw(
            format!(
                "{request} HTTP/1.1\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .as_bytes(),
        );
        let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{reply}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(!head.to_ascii_lowercase().contains("access-control"), "{head}");
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    fn status(&self, headers: &str) -> u16 {
        let (status, body) = self.ask("GET /hyprstream/v1/status", headers, "");
        let said = body["error"]["message"]
            .as_str()
            .is_some_and(|message| !message.is_empty());
        assert_eq!(said, status != 200, "{body}");
        status
    }

    /// Ends when the daemon answers this token.
    fn serves(&self, token: &str) {
        assert_eq!(self.status(&as_user(token)), 200);
    }

    /// An answer that goes on until the stream is dropped.
    fn endless(&self, token: &str) -> TcpStream {
        self.endless_after(token, "hello")
    }

    /// An answer that stops for want of a reader after some megabytes, which are few tokens with their alternatives.
    fn endless_after(&self, token: &str, prompt: &str) -> TcpStream {
        let sampling = json!({"max_tokens": 60000, "ignore_eos": true, "logprobs": 20});
        let body = json!({"model": "tiny", "prompt": prompt, "sampling": sampling}).to_string();
        let mut stream = self.connect();
        let (headers, length) = (as_user(token), body.len());
        write!(
            stream,
            "POST {GENERATE} HTTP/1.1\r\n{headers}content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        stream
    }
}

fn as_user(token: &str) -> String {
    format!("host: localhost\r\nauthorization: Bearer {token}\r\n")
}

#[test]
fn a_token_a_host_and_no_foreign_page() {
    let open = open("");
    open.serves(LAPTOP);
    let with = |host: &str, more: &str| open.status(&format!("host: {host}\r\n{more}"));
    let key = format!("authorization: Bearer {LAPTOP}\r\n");
    assert_eq!(with("llm.example.org", &key), 200);
    assert_eq!(with("localhost", ""), 401);
    assert_eq!(
        with("localhost", "authorization: Bearer wrong-0123456789abcdef\r\n"),
        401
    );
    assert_eq!(with("localhost", "authorization: Basic bGFwdG9w\r\n"), 401);
    assert_eq!(
        with("localhost", &format!("{key}authorization: Bearer x\r\n")),
        401
    );
    assert_eq!(with("evil.example", &key), 403);
    assert_eq!(with("localhost.evil.example", &key), 403);
    assert_eq!(
        with("localhost", &format!("{key}origin: http://evil.example\r\n")),
        403
    );
    assert_eq!(with("localhost", &format!("{key}origin: null\r\n")), 403);
    assert_eq!(
        with("localhost", &format!("{key}origin: http://localhost\r\n")),
        200
    );
    assert_eq!(open.status(&key), 403, "no host at all");
    let (status, error) = open.ask("GET /v1/models", "host: localhost\r\n", "");
    assert_eq!(
        (status, &error["error"]["type"]),
        (401, &json!("invalid_request_error"))
    );
    let log = open.daemon.log();
    assert!(log.contains("laptop") && !log.contains(LAPTOP), "{log}");
    open.daemon.stop();
}

#[test]
fn tokens_are_users_of_their_own_who_change_nothing() {
    let open = open("");
    let running = open.endless(LAPTOP);
    let jobs = |token: &str| {
        let (status, jobs) = open.ask("GET /hyprstream/v1/jobs", &as_user(token), "");
        assert_eq!(status, 200);
        jobs["jobs"].as_array().unwrap().clone()
    };
    let job = wait::until("the job is listed", || jobs(LAPTOP).first().cloned());
    assert!(jobs(PHONE).is_empty());
    let id = job["id"].as_str().unwrap();
    let cancel = |token: &str, id: &str| {
        let path = format!("DELETE /hyprstream/v1/jobs/{id}");
        let (status, body) = open.ask(&path, &as_user(token), "");
        (
            status,
            body["error"]["message"]
                .as_str()
                .unwrap_or_default()
                .replace(id, "ID"),
        )
    };
    assert_eq!(cancel(PHONE, id), cancel(PHONE, "0123456789abcdef"));
    assert_eq!(jobs(LAPTOP).len(), 1);
    assert_eq!(cancel(LAPTOP, id).0, 200);
    drop(running);
    let load = json!({"model": "tiny"}).to_string();
    for (request, body) in [
        ("POST /hyprstream/v1/load", load.as_str()),
        ("POST /hyprstream/v1/unload", &load),
        ("POST /hyprstream/v1/reload", ""),
        ("DELETE /hyprstream/v1/models/tiny", ""),
        ("PUT /hyprstream/v1/models/x", "x"),
    ] {
        let (status, error) = open.ask(request, &as_user(LAPTOP), body);
        assert_eq!(
            (status, &error["error"]["code"]),
            (403, &json!("denied")),
            "{request}"
        );
    }
    open.daemon.stop();
}

#[test]
fn another_users_prompt_is_not_found_in_the_cache() {
    let open = open("");
    let prompt = "the sea and the wind and the captain ".repeat(8);
    let body = json!({"model": "tiny", "prompt": prompt, "max_tokens": 2}).to_string();
    let cached = |token: &str| {
        let (status, answer) = open.ask("POST /v1/completions", &as_user(token), &body);
        assert_eq!(status, 200, "{answer}");
        answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(cached(LAPTOP), 0);
    assert!(cached(LAPTOP) >= 32);
    assert_eq!(cached(PHONE), 0);
    assert_eq!(
        open.daemon
            .post("/v1/completions", &serde_json::from_str(&body).unwrap())
            .json()["usage"]["prompt_tokens_details"]["cached_tokens"],
        0
    );
    open.daemon.stop();
}

#[test]
fn status_counts_ones_own_requests_and_all_for_the_superuser() {
    let open = open("[runtime]\nthreads = 1\nkv_tokens = 262144\n");
    let _held = open.endless(LAPTOP);
    let count = |status: &Value| {
        let state = status["state"].as_str().unwrap().to_owned();
        (
            status["running"].as_u64().unwrap() + status["queued"].as_u64().unwrap(),
            state,
        )
    };
    wait::until("it runs", || {
        (open.daemon.get("/hyprstream/v1/status").json()["running"] == 1).then_some(())
    });
    let status = |user| open.ask("GET /hyprstream/v1/status", &as_user(user), "").1;
    let (mine, said) = count(&status(LAPTOP));
    assert!(mine == 1 && said.contains("requests running: 1"), "{said}");
    let (others, said) = count(&status(PHONE));
    assert!(others == 0 && said.contains("ready"), "{said}");
}

#[test]
fn a_user_has_so_many_requests_and_others_go_on() {
    let open = open("[limits]\nuser_requests_max = 2\n[runtime]\nthreads = 1\nkv_tokens = 262144\n");
    let _held = [open.endless(LAPTOP), open.endless(LAPTOP)];
    wait::until("both are at work", || {
        (open.daemon.jobs().len() == 2).then_some(())
    });
    let body = json!({"model": "tiny", "prompt": "hello", "sampling": {"max_tokens": 2}}).to_string();
    let (status, error) = open.ask(&format!("POST {GENERATE}"), &as_user(LAPTOP), &body);
    assert_eq!((status, &error["error"]["code"]), (429, &json!("busy")));
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap()
            .contains("user_requests_max")
    );
    assert!(error["error"]["retry_ms"].as_u64().unwrap() > 0);
    let (status, _) = open.ask(&format!("POST {GENERATE}"), &as_user(PHONE), &body);
    assert_eq!(status, 200);
}

#[test]
fn a_user_has_so_many_tokens_waiting_and_others_go_on() {
    let config = "[limits]\nuser_queued_tokens_max = 100\nsequences_max = 1\n[runtime]\nthreads = 1\nkv_tokens = 262144\n";
    let open = open(config);
    let _running = open.endless(LAPTOP);
    let queued = || open.daemon.get("/hyprstream/v1/status").json()["queued"].clone();
    wait::until("one runs", || {
        (open.daemon.get("/hyprstream/v1/status").json()["running"] == 1).then_some(())
    });
    // Sixty tokens each, and three a word.
    let _waiting = open.endless_after(LAPTOP, &"hello ".repeat(20));
    wait::until("one waits", || (queued() == 1).then_some(()));
    let body = json!({"model": "tiny", "prompt": "hello ".repeat(20)}).to_string();
    let (status, error) = open.ask(&format!("POST {GENERATE}"), &as_user(LAPTOP), &body);
    let error = &error["error"];
    assert_eq!((status, &error["code"]), (429, &json!("busy")), "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("user_queued_tokens_max") && message.contains("100"),
        "{error}"
    );
    assert!(error["retry_ms"].as_u64().unwrap() > 0, "{error}");
    let _others = open.endless_after(PHONE, &"hello ".repeat(20));
    wait::until("another user's waits too", || (queued() == 2).then_some(()));
}

/// A request that declares `declared` bytes and sends the first `sent` of them.
fn begun(open: &Open, token: &str, declared: usize, sent: usize) -> TcpStream {
    let mut stream = open.connect();
    let headers = as_user(token);
    let head = format!(
        "POST {GENERATE} HTTP/1.1\r\n{headers}connection: close\r\ncontent-length: {declared}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b' '; sent]).unwrap();
    stream
}

#[test]
fn large_requests_of_a_user_have_so_much_room_and_others_get_in() {
    let open = open("");
    open.daemon.hyp(["load", "tiny"]).ok();
    let held: Vec<TcpStream> = (0..8).map(|_| begun(&open, LAPTOP, 8 << 20, 100_000)).collect();
    let body = |pad: usize| {
        let request = json!({"model": "tiny", "prompt": "hello", "sampling": {"max_tokens": 2}});
        format!("{}{request}", " ".repeat(pad))
    };
    let ask = |token: &str, pad: usize| open.ask(&format!("POST {GENERATE}"), &as_user(token), &body(pad));
    let error = wait::within(Duration::from_secs(60), "a ninth is refused", || {
        let (status, error) = ask(LAPTOP, 1 << 20);
        (status == 429).then(|| error["error"].clone())
    });
    assert_eq!(error["code"], "busy");
    assert!(error["message"].as_str().unwrap().contains("64 MiB"), "{error}");
    assert!(error["retry_ms"].as_u64().unwrap() > 0, "{error}");
    assert_eq!(ask(LAPTOP, 1000).0, 200, "a small one needs no room");
    assert_eq!(ask(PHONE, 1 << 20).0, 200, "another user has room");
    drop(held);
    assert_eq!(ask(LAPTOP, 1 << 20).0, 200, "there is room again");
}

#[test]
fn a_user_has_so_much_of_the_cache_and_a_reload_says_how_much() {
    let open = open("[runtime]\nthreads = 1\nkv_tokens = 65536\n");
    // Three tokens a word; it reads nothing of its answer, so it stays.
    let _held = open.endless_after(LAPTOP, &"hello ".repeat(400));
    // One that comes before it is at work may come in, and waits for it.
    wait::until("it answers", || {
        let jobs = open.daemon.jobs();
        (jobs.first()?["completion_tokens"].as_u64()? > 0).then_some(())
    });
    let main = open.daemon.folder().join("test.toml");
    let config = fs::read_to_string(&main).unwrap() + "[limits]\nuser_kv_memory = \"10%\"\n";
    fs::write(main, config).unwrap();
    program::run(hyprstream_tests::daemon::command(open.daemon.folder()).arg("--reload")).ok();
    // It begins otherwise, so that none of what the first one holds serves it as well.
    let prompt = |words: usize| format!("x{}", "hello ".repeat(words));
    let body =
        |words: usize| json!({"model": "tiny", "prompt": prompt(words), "sampling": {"max_tokens": 2}});
    let ask = |user, words| {
        open.ask(
            &format!("POST {GENERATE}"),
            &as_user(user),
            &body(words).to_string(),
        )
    };
    let (status, error) = ask(LAPTOP, 1850);
    let error = &error["error"];
    assert_eq!((status, &error["code"]), (429, &json!("busy")), "{error}");
    assert!(
        error["message"].as_str().unwrap().contains("user_kv_memory"),
        "{error}"
    );
    assert!(error["retry_ms"].as_u64().unwrap() > 0);
    assert_eq!(ask(PHONE, 1850).0, 200);
    let (status, error) = ask(PHONE, 2300);
    assert_eq!(
        (status, &error["error"]["code"]),
        (400, &json!("context_exceeded"))
    );
    assert!(
        error["error"]["message"]
            .as_str()
            .unwrap()
            .contains("user_kv_memory")
    );
    // The superuser may have all.
    assert_eq!(open.daemon.post(GENERATE, &body(2300)).status, 200);
}

#[test]
fn endless_heads_and_silent_clients_are_cut_off() {
    let open = open("[http]\nheader_timeout = \"500ms\"\n");
    // A gigabyte of headers, if the daemon would listen to them.
    let mut stream = open.connect();
    stream
        .write_all(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n")
        .unwrap();
    let line = format!("x-y: {}\r\n", "z".repeat(8000)).into_bytes();
    let mut sent = 0usize;
    while sent < 1 << 30 && stream.write_all(&line).is_ok() {
        sent += line.len();
    }
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    // Exact to the byte.
    let head = |bytes: usize| {
        let start = format!(
            "GET /hyprstream/v1/status HTTP/1.1\r\nconnection: close\r\n{}x-y: ",
            as_user(LAPTOP)
        );
        let filler = "z".repeat(bytes - start.len() - 4);
        open.raw(format!("{start}{filler}\r\n\r\n").as_bytes())
    };
    assert!(head(64 << 10).starts_with("HTTP/1.1 200"));
    let over = head((64 << 10) + 1);
    assert!(over.is_empty() || over.starts_with("HTTP/1.1 431"), "{over}");
    let many = "x-y: z\r\n".repeat(200);
    let reply = open.raw(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes());
    assert!(reply.is_empty() || reply.starts_with("HTTP/1.1 431"), "{reply}");
    let (began, mut silent) = (Instant::now(), open.connect());
    silent.write_all(b"GET /v1/models HTTP/1.1\r\nhost").unwrap();
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest);
    assert!(began.elapsed() < Duration::from_secs(10));
    open.serves(LAPTOP);
    open.daemon.stop();
}

#[test]
fn a_flood_without_tokens_keeps_nobody_out() {
    let open = open("[http]\nheader_timeout = \"1h\"\n");
    // More than the door holds; each would stay for an hour.
    let _silent: Vec<TcpStream> = (0..700).map(|_| open.connect()).collect();
    open.serves(LAPTOP);
    let _held: Vec<TcpStream> = (0..700)
        .map(|_| {
            let mut stream = open.connect();
            let _ = write!(stream, "GET /v1/models HTTP/1.1\r\n{}\r\n", as_user(LAPTOP));
            stream
        })
        .collect();
    open.serves(PHONE);
    assert_eq!(open.daemon.get("/hyprstream/v1/status").status, 200);
    open.daemon.stop();
}

#[test]
fn a_door_that_would_not_be_safe_stays_shut() {
    let folder = tempfile::tempdir().unwrap();
    let refuses = |config: String, word: &str| {
        fs::write(folder.path().join("test.toml"), config).unwrap();
        let said = program::run(&mut hyprstream_tests::daemon::command(folder.path())).fails(1);
        assert!(said.contains(word), "{said}");
    };
    let tokens = tokens_file(folder.path(), 0o644);
    let at = |address: &str| {
        format!(
            "[tcp]\nlisten = \"{address}\"\ntokens = \"{}\"\n",
            tokens.display()
        )
    };
    refuses(at("127.0.0.1:0"), "chmod 600");
    fs::set_permissions(&tokens, Permissions::from_mode(0o600)).unwrap();
    refuses(at("0.0.0.0:0"), "TLS");
    // Said twice, it opens, and says how loud that is.
    let config = at("0.0.0.0:0") + "insecure = true\n";
    let open = Daemon::with(&[(fixtures::tiny(), "tiny.gguf")], &config);
    assert!(
        open.log().contains("cross the network in plain"),
        "{}",
        open.log()
    );
    open.stop();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    refuses(at(&taken.local_addr().unwrap().to_string()), "cannot listen at");
    fs::remove_file(&tokens).unwrap();
    refuses(at("127.0.0.1:0"), "NAME TOKEN");
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let daemon = Daemon::tiny();
    let reply = daemon.get(GENERATE);
    assert_eq!(reply.error(405)["code"], "no_such_method");
    let head = reply.head.to_ascii_lowercase();
    assert!(head.contains("allow: post"), "{head}");
    let reply = wire::raw(
        &daemon.socket(),
        b"DELETE /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    );
    assert_eq!(reply.unwrap().error(405)["code"], "no_such_method");
    daemon.stop();
}

#[test]
fn foreign_clients_come_in_with_a_key() {
    let open = open("");
    let url = format!("http://{}/v1", open.at);
    let mut curl = std::process::Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--fail",
        "--max-time",
        "30",
        "--header",
    ]);
    curl.arg(format!("authorization: Bearer {LAPTOP}"))
        .arg(format!("{url}/models"));
    match curl.output() {
        Ok(output) => assert!(
            String::from_utf8_lossy(&output.stdout).contains("tiny"),
            "{output:?}"
        ),
        Err(_) => fixtures::skipped("curl over TCP: it is absent"),
    }
    let Some(python) = super::foreign::python() else {
        return;
    };
    let mut command = program::command(&python, open.daemon.folder());
    command.arg(fixtures::root().join("tests/clients/openai_client.py"));
    command.args([&url, LAPTOP]);
    let out = program::run(&mut command).ok();
    assert!(out.ends_with("all well\n"), "{out}");
    open.daemon.stop();
}
