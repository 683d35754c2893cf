//! Wrong requests of every kind. Invariant: each is refused with its own words, and the next request is served.
use hyprstream_tests::{Daemon, fixtures, program, wire};
use serde_json::{Value, json};
use std::io::{Read, Write};

fn still_serves(daemon: &Daemon) {
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "2", "hello"])
        .ok();
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

#[test]
fn a_prompt_over_the_context_is_refused_with_both_numbers() {
    let daemon = Daemon::with(
        &[
            (fixtures::tiny(), "tiny.gguf"),
            (fixtures::arch("qwen3", "hf"), "small"),
        ],
        "",
    );
    let body = |count: usize, max: u32| json!({"model": "small", "prompt": vec![5; count], "sampling": {"max_tokens": max}});
    daemon.hyp(["load", "small"]).ok();
    let error = daemon.post("/hyprstream/v1/generate", &body(513, 1)).error(400);
    assert_eq!(error["code"], "context_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("513") && message.contains("512"), "{message}");
    let reply = daemon.post("/hyprstream/v1/generate", &body(500, 4));
    assert_eq!(reply.status, 200, "{reply:?}");

    let limits = "[runtime]\nthreads = 1\nkv_tokens = 64\n";
    let narrow = Daemon::with(&[(fixtures::tiny(), "tiny.gguf")], limits);
    let said = program::run_with(
        &mut narrow.command(["ask", "-m", "tiny"]),
        "hello ".repeat(200).as_bytes(),
    )
    .fails(7);
    assert!(said.contains("64"), "{said}");
    still_serves(&daemon);
    daemon.stop();
    narrow.stop();
}

#[test]
fn malformed_http_is_refused() {
    let daemon = Daemon::tiny();
    let socket = daemon.socket();
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-y: z\r\n".repeat(10_000));
    for bytes in [
        b"\r\n\r\n".as_slice(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"G\xffT / HTTP/1.1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let mut stream = wire::connect(&socket).unwrap();
        // The daemon may close before all is sent, and need not answer what is no HTTP.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        let reply = String::from_utf8_lossy(&reply);
        assert!(
            reply.is_empty() || reply.starts_with("HTTP/1.1 4"),
            "{:?}: {reply}",
            &bytes[..bytes.len().min(40)]
        );
    }
    still_serves(&daemon);
    daemon.stop();
}

#[test]
fn a_long_method_is_not_repeated_whole() {
    let daemon = Daemon::tiny();
    let head = format!(
        "{} /hyprstream/v1/status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "A".repeat(30_000)
    );
    let error = wire::raw(&daemon.socket(), head.as_bytes()).unwrap().error(405);
    assert_eq!(error["code"], "no_such_method");
    assert!(error["message"].as_str().unwrap().len() < 1_000, "{error}");
    still_serves(&daemon);
    daemon.stop();
}

#[test]
fn a_client_that_never_ends_its_head_is_dropped() {
    let daemon = Daemon::with(
        &[(fixtures::tiny(), "tiny.gguf")],
        "[http]\nheader_timeout = \"300ms\"\n",
    );
    let mut stream = wire::connect(&daemon.socket()).unwrap();
    stream
        .write_all(b"GET /hyprstream/v1/status HTTP/1.1\r\nhost: x\r\n")
        .unwrap();
    let mut reply = String::new();
    // Ends when the daemon closes; the read timeout of the test would be an error.
    stream.read_to_string(&mut reply).unwrap();
    assert!(!reply.starts_with("HTTP/1.1 2"), "{reply}");
    still_serves(&daemon);
    daemon.stop();
}

#[test]
fn bodies_that_are_no_json_or_too_large_are_refused() {
    let daemon = Daemon::with(
        &[(fixtures::tiny(), "tiny.gguf")],
        "[http]\nbody_max = \"64KiB\"\n",
    );
    let post = |path: &str, body: &[u8]| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        wire::raw(&daemon.socket(), &[head.as_bytes(), body].concat())
            .unwrap_or_else(|| panic!("no answer from {path}"))
    };
    let deep = [vec![b'['; 10_000], vec![b']'; 10]].concat();
    for path in [
        "/hyprstream/v1/generate",
        "/hyprstream/v1/chat",
        "/v1/completions",
        "/v1/chat/completions",
    ] {
        for body in [
            b"".as_slice(),
            b"{",
            b"nonsense",
            b"[1, 2]",
            b"{\"model\": \"ti\xffny\"}",
            b"{\"model\": 5}",
            &deep,
        ] {
            post(path, body).error(400);
        }
        let large = format!("{{\"model\": \"tiny\", \"prompt\": \"{}\"}}", "a".repeat(100_000));
        let error = post(path, large.as_bytes()).error(413);
        assert!(error["message"].as_str().unwrap().contains("65536"), "{error}");
        let error = post(path, &[b'['; 50_000]).error(413);
        assert!(
            error["message"].as_str().unwrap().contains("too many values"),
            "{error}"
        );
    }
    still_serves(&daemon);
    daemon.stop();
}

#[test]
fn compressed_bodies_are_refused_by_name() {
    let daemon = Daemon::tiny();
    daemon.hyp(["load", "tiny"]).ok();
    let send = |method: &str, path: &str, encoding: &str, body: &[u8]| {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-encoding: {encoding}\r\ncontent-length: {length}\r\n\r\n"
        );
        wire::raw(&daemon.socket(), &[head.as_bytes(), body].concat()).unwrap()
    };
    let body = json!({"model": "tiny", "prompt": "hello", "max_tokens": 1}).to_string();
    let packed = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0];
    for (method, path) in [
        ("POST", "/hyprstream/v1/generate"),
        ("POST", "/hyprstream/v1/tokenize"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"),
        ("PUT", "/hyprstream/v1/models/packed"),
    ] {
        for (encoding, body) in [
            ("gzip", packed.as_slice()),
            ("identity, ZSTD", &packed),
            ("br", &vec![7; 1 << 20]),
        ] {
            let reply = send(method, path, encoding, body);
            let error = reply.error(415);
            assert_eq!(error["code"], "unsupported_encoding");
            let name = encoding.rsplit(' ').next().unwrap();
            assert!(error["message"].as_str().unwrap().contains(name), "{error}");
            let head = reply.head.to_ascii_lowercase();
            assert!(head.contains("accept-encoding: identity"), "{head}");
        }
    }
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: gzip, chunked\r\n\r\n";
    let reply = wire::raw(
        &daemon.socket(),
        &[head.as_bytes(), b"1\r\nx\r\n0\r\n\r\n"].concat(),
    )
    .unwrap();
    assert_eq!(reply.error(415)["code"], "unsupported_encoding");
    let plain = send("POST", "/v1/completions", "Identity", body.as_bytes());
    assert_eq!(plain.status, 200, "{plain:?}");
    assert_eq!(send("GET", "/hyprstream/v1/status", "gzip", b"").status, 200);
    assert_eq!(daemon.model("packed"), None);
    still_serves(&daemon);
    daemon.stop();
}

/// Clients that send all of a body before they read see the answer too.
#[test]
fn refusals_come_after_bodies_that_nobody_wants() {
    let daemon = Daemon::tiny();
    let body = vec![b'x'; 20_000_000];
    for (method, path, status) in [
        ("PUT", "/hyprstream/v1/models/tiny", 400),
        ("PUT", "/hyprstream/v1/models/%20", 400),
        ("POST", "/nope", 404),
        ("POST", "/hyprstream/v1/status", 405),
    ] {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = wire::connect(&daemon.socket()).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&body).unwrap();
        let mut start = [0; 12];
        stream.read_exact(&mut start).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&start),
            format!("HTTP/1.1 {status}"),
            "{path}"
        );
    }
    still_serves(&daemon);
    daemon.stop();
}

#[test]
fn a_list_is_no_request() {
    let daemon = Daemon::tiny();
    let reply = daemon.post("/hyprstream/v1/generate", &json!([null, "hi"]));
    let error = reply.error(400);
    assert!(
        error["message"].as_str().unwrap().contains("no JSON object"),
        "{error}"
    );
    daemon.stop();
}

#[test]
fn wrong_fields_and_values_are_named() {
    let daemon = Daemon::with(
        &[
            (fixtures::tiny(), "tiny.gguf"),
            (fixtures::arch("llama", "hf"), "plain"),
        ],
        "",
    );
    // In memory, so that an answer does not begin with news of the load, whose status is 200.
    daemon.hyp(["load", "tiny"]).ok();
    daemon.hyp(["load", "plain"]).ok();
    let generate = |body: Value| daemon.post("/hyprstream/v1/generate", &body);
    for (body, word) in [
        (json!({"model": "tiny"}), "prompt"),
        (json!({"model": "tiny", "prompt": "x", "promt": "y"}), "promt"),
        (
            json!({"model": "tiny", "prompt": "x", "sampling": {"temprature": 1}}),
            "temprature",
        ),
        (
            json!({"model": "tiny", "prompt": "x", "sampling": {"temperature": "hot"}}),
            "temperature",
        ),
        (
            json!({"model": "tiny", "prompt": "x", "sampling": {"temperature": -1}}),
            "temperature",
        ),
        (
            json!({"model": "tiny", "prompt": "x", "sampling": {"top_p": 0}}),
            "top_p",
        ),
        (
            json!({"model": "tiny", "prompt": "x", "sampling": {"top_p": 1.5}}),
            "top_p",
        ),
        (
            json!({"model": "tiny", "prompt": "x", "sampling": {"min_p": 2}}),
            "min_p",
        ),
        (
            json!({"model": "tiny", "prompt": "x", "sampling": {"repeat_penalty": 0}}),
            "repeat_penalty",
        ),
        (
            json!({"model": "tiny", "prompt": "x", "sampling": {"presence_penalty": 3}}),
            "presence_penalty",
        ),
        (
            json!({"model": "tiny", "prompt": "x", "sampling": {"logprobs": 21}}),
            "logprobs",
        ),
        (
            json!({"model": "tiny", "prompt": "x", "sampling": {"stop": [""]}}),
            "stop",
        ),
        (
            json!({"model": "tiny", "prompt": "x", "sampling": {"max_tokens": -1}}),
            "max_tokens",
        ),
        (json!({"model": "tiny", "prompt": [5, 100_000]}), "100000"),
        (json!({"model": "tiny", "prompt": []}), "prompt"),
    ] {
        let error = generate(body.clone()).error(400);
        assert_eq!(error["code"], "bad_request", "{body}: {error}");
        let said = format!("{} {}", error["message"], error["field"]);
        assert!(said.contains(word), "{body}: {error}");
    }
    let error = generate(json!({"model": "tiny", "prompt": "x", "sampling": {"stop": ["a", ""]}})).error(400);
    assert_eq!(error["message"], "`stop` must not have an empty string in it");
    let error = generate(json!({"model": "nobody", "prompt": "x"})).error(404);
    assert_eq!(error["code"], "model_not_found");
    let error = generate(json!({"model": "plain", "prompt": "text"})).error(400);
    assert_eq!(error["code"], "model_lacks");
    let chat = json!({"model": "plain", "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(
        daemon.post("/hyprstream/v1/chat", &chat).error(400)["code"],
        "model_lacks"
    );
    let nobody = json!({"model": "tiny", "messages": []});
    daemon.post("/hyprstream/v1/chat", &nobody).error(400);
    still_serves(&daemon);
    daemon.stop();
}

#[test]
fn routes_that_do_not_exist_are_refused() {
    let daemon = Daemon::tiny();
    for path in [
        "/",
        "/hyprstream/v1/nothing",
        "/hyprstream/v2/status",
        "/v1/embeddings",
        "/hyprstream/v1/generate",
    ] {
        let reply = daemon.get(path);
        assert!(reply.status == 404 || reply.status == 405, "{path}: {reply:?}");
        assert!(reply.json()["error"]["message"].is_string(), "{path}: {reply:?}");
    }
    let error = daemon.get("/hyprstream/v1/models/nobody").error(404);
    assert_eq!(error["code"], "model_not_found");
    for path in [
        "/hyprstream/v1/models/..%2f..%2fetc%2fpasswd",
        "/hyprstream/v1/models/%ff%fe",
        "/hyprstream/v1/models/%00",
    ] {
        let reply = daemon.get(path);
        assert!((400..500).contains(&reply.status), "{path}: {reply:?}");
    }
    daemon.stop();
}

#[test]
fn hyp_refuses_what_it_cannot_send() {
    let daemon = Daemon::tiny();
    let bad = b"caf\xe9 au lait";
    program::run_with(&mut daemon.command(["ask", "-m", "tiny"]), bad).fails(7);
    program::run_with(&mut daemon.command(["tokenize", "-m", "tiny", "-"]), bad).fails(7);
    daemon.hyp(["ask", "--no-such-flag", "hello"]).fails(2);
    daemon.hyp(["ask", "-t", "hot", "hello"]).fails(2);
    daemon.hyp(["no-such-command"]).fails(2);
    daemon.hyp(["ask", "-m", "tiny", "-t", "7", "hello"]).fails(2);
    daemon.hyp(["ask", "-m", "tiny", "--stop", "", "hello"]).fails(7);
    daemon.hyp(["score", "-m", "tiny", "/no/such/file"]).fails(1);
    daemon.hyp(["cancel", "no-such-job"]).fails(7);
    daemon.hyp(["show", "nobody"]).fails(5);
    daemon.hyp(["load", "nobody"]).fails(5);
    let nowhere = daemon.folder().join("nowhere.sock");
    program::run(&mut program::hyp(&nowhere, ["status"])).fails(3);
    let error = daemon.hyp(["ask", "-m", "nobody", "--json", "hello"]).fails(5);
    let error: Value = serde_json::from_str(&error).unwrap();
    assert_eq!(error["error"]["code"], "model_not_found");
    still_serves(&daemon);
    daemon.stop();
}
