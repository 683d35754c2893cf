//! `hyp chat` with piped input: each line a turn, the talk remembered.
use crate::fake::{Home, run_with, text};
use hyprstream_protocol::{ErrorBody, ErrorCode};
use serde_json::json;

#[test]
fn a_talk_is_remembered() {
    let home = Home::new();
    let fake = home.serve(|_, peer| {
        peer.answer("so it is");
        true
    });
    let output = run_with(
        home.hyp(&["chat", "-s", "Be short."]),
        b"one\n\n/system\ntwo\n/new\nthree",
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "so it is\nso it is\nso it is\n");
    let seen = fake.seen.lock().unwrap();
    let messages: Vec<_> = seen
        .iter()
        .map(|request| request.body["messages"].clone())
        .collect();
    assert_eq!(
        messages,
        [
            json!([{"role": "system", "content": "Be short."}, {"role": "user", "content": "one"}]),
            json!([
                {"role": "user", "content": "one"},
                {"role": "assistant", "content": "so it is"},
                {"role": "user", "content": "two"},
            ]),
            json!([{"role": "user", "content": "three"}]),
        ]
    );
}

#[test]
fn the_first_error_ends_a_piped_talk() {
    let home = Home::new();
    let fake = home.serve(|_, peer| {
        peer.error(&ErrorBody::new(ErrorCode::Busy, "64 requests wait"));
        true
    });
    let output = run_with(home.hyp(&["chat"]), b"one\ntwo\n");
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(fake.seen.lock().unwrap().len(), 1);
}

#[test]
fn quit_quits_and_bad_bytes_are_refused() {
    let home = Home::new();
    assert_eq!(
        run_with(home.hyp(&["chat"]), b"/quit\none\n").status.code(),
        Some(0)
    );
    assert_eq!(run_with(home.hyp(&["chat"]), b"a\xff\n").status.code(), Some(7));
}
