//! `hyp ask`: what is sent, and what comes out as it comes in.
use crate::fake::{DONE, Home, STARTED, run_with, text, token};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

#[test]
fn an_answer_is_printed_as_it_comes() {
    let home = Home::new();
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let _fake = home.serve(move |_, peer| {
        peer.begin_stream();
        peer.event(r#"{"event":"loading","model":"m","stage":"weights","progress":0.5}"#);
        peer.event(STARTED);
        peer.token("Hel");
        wait.lock()
            .unwrap()
            .recv_timeout(Duration::from_secs(10))
            .unwrap();
        peer.token("lo");
        peer.end_stream();
        true
    });
    let mut child = home.hyp(&["ask", "hi"]).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut first = [0; 3];
    // The rest is not sent before this has arrived.
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"Hel");
    go.send(()).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "lo\n");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "", "nothing of the spinner in a pipe");
}

#[test]
fn json_is_what_came() {
    let home = Home::new();
    let _fake = home.serve(|_, peer| {
        peer.answer("one two");
        true
    });
    let output = home.hyp(&["ask", "--json", "hi"]).output().unwrap();
    let expected = [STARTED, &token("one "), &token("two"), DONE].join("\n") + "\n";
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn the_question_is_sent_whole() {
    let home = Home::new();
    let fake = home.serve(|_, peer| {
        peer.answer("ok");
        true
    });
    let args = "ask -m qwen -s Be_short. -t 0 --top-k 5 --seed 9 --stop END --stop STOP --no-think --no-speculation say it";
    let args: Vec<&str> = args.split(' ').collect();
    let output = run_with(home.hyp(&args), b"line\n");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let seen = fake.seen.lock().unwrap();
    assert_eq!(seen[0].line, "POST /hyprstream/v1/chat");
    let expected = json!({
        "model": "qwen",
        "messages": [{"role": "system", "content": "Be_short."}, {"role": "user", "content": "say it\n\nline"}],
        "template_vars": {"enable_thinking": false},
        "sampling": {"temperature": 0.0, "top_k": 5, "seed": 9, "stop": ["END", "STOP"], "speculation": false},
    });
    assert_eq!(seen[0].body, expected);
}

#[test]
fn raw_text_is_continued() {
    let home = Home::new();
    let fake = home.serve(|_, peer| {
        peer.answer("ok");
        true
    });
    let output = run_with(home.hyp(&["ask", "--raw", "--max-tokens", "3"]), b"Once upon\n");
    assert_eq!(text(&output.stdout), "ok\n");
    let seen = fake.seen.lock().unwrap();
    assert_eq!(seen[0].line, "POST /hyprstream/v1/generate");
    assert_eq!(
        seen[0].body,
        json!({"prompt": "Once upon", "sampling": {"max_tokens": 3}})
    );
}

#[test]
fn bad_input_is_refused_before_anything_is_sent() {
    let home = Home::new();
    let output = run_with(home.hyp(&["ask", "what is this?"]), b"ab\xffcd");
    assert_eq!(output.status.code(), Some(7));
    assert!(
        text(&output.stderr).contains("byte 2"),
        "{}",
        text(&output.stderr)
    );
    let output = run_with(home.hyp(&["ask"]), b" \n");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("nothing is asked"));
    assert!(text(&output.stderr).contains("--help"));
    let mut endless = home.hyp(&["ask", "hi"]);
    endless.stdin(std::fs::File::open("/dev/zero").unwrap());
    let output = endless.output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert!(text(&output.stderr).contains("longer than 64 MiB"));
}

#[test]
fn ctrl_c_hangs_up() {
    let home = Home::new();
    let fake = home.serve(|_, peer| {
        peer.begin_stream();
        peer.token("Hel");
        peer.wait_for_hangup()
    });
    let mut child = home.hyp(&["ask", "hi"]).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(fake.hung_up.recv_timeout(Duration::from_secs(5)).unwrap());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let home = Home::new();
    let fake = home.serve(|_, peer| {
        peer.begin_stream();
        peer.token("Hel");
        let event = token("lo\n");
        let chunk = format!("{:x}\r\n{event}\n\r\n", event.len() + 1);
        // A write fails once the client has gone.
        while peer.try_raw(chunk.as_bytes()) {
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    });
    let mut child = home.hyp(&["ask", "hi"]).stdin(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 3]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stderr), "");
    assert!(fake.hung_up.recv_timeout(Duration::from_secs(5)).unwrap());
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let home = Home::new();
    let _fake = home.serve(|_, peer| {
        peer.answer("ok");
        true
    });
    let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert!(full.write(b"x").is_err());
    let output = home.hyp(&["ask", "hi"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot write the output"));
}
