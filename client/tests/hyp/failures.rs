//! Everything that goes wrong: each failure has its exit code and its words, and none has no end.
use crate::fake::{Home, run_with, text};
use hyprstream_protocol::{ErrorBody, ErrorCode};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

#[test]
fn every_error_has_its_exit_code() {
    for code in ErrorCode::ALL {
        let home = Home::new();
        let error = ErrorBody::new(code, "it is so")
            .retry_after_ms(1500)
            .for_field("model");
        let sent = error.clone();
        let _fake = home.serve(move |_, peer| {
            peer.error(&sent);
            true
        });
        let output = home.hyp(&["ask", "hi"]).output().unwrap();
        assert_eq!(output.status.code(), Some(code.exit_code().into()), "{code:?}");
        assert!(
            text(&output.stderr).starts_with("hyp: it is so\n"),
            "{}",
            text(&output.stderr)
        );
        let hint = text(&output.stderr).contains("try again in 2 seconds");
        assert_eq!(hint, matches!(code, ErrorCode::Busy | ErrorCode::Stopping));
        let output = home.hyp(&["models", "--json"]).output().unwrap();
        assert_eq!(output.status.code(), Some(code.exit_code().into()), "{code:?}");
        assert_eq!(text(&output.stdout), "");
        let told: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(told["error"], serde_json::to_value(&error).unwrap());
    }
}

#[test]
fn help_that_cannot_be_written_is_a_failure() {
    let home = Home::new();
    for args in [
        &["--version"][..],
        &["--help"],
        &["ask", "--help"],
        &["help"],
        &["man"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = home.hyp(args).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = text(&output.stderr);
        assert!(
            said.starts_with("hyp: cannot write the output"),
            "{args:?}: {said}"
        );
        assert_eq!(home.hyp(args).output().unwrap().status.code(), Some(0));
    }
}

#[test]
fn an_answer_that_fails_on_the_way() {
    let home = Home::new();
    let _fake = home.serve(|_, peer| {
        peer.begin_stream();
        peer.token("Hel");
        peer.event(r#"{"event":"error","code":"cancelled","message":"it was cancelled"}"#);
        true
    });
    let output = home.hyp(&["ask", "hi"]).output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert_eq!(text(&output.stdout), "Hel\n");
    assert_eq!(text(&output.stderr), "hyp: it was cancelled\n");
}

#[test]
fn an_answer_that_breaks_off() {
    let home = Home::new();
    let _fake = home.serve(|_, peer| {
        peer.begin_stream();
        peer.token("Hel");
        true
    });
    let output = home.hyp(&["ask", "hi"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(text(&output.stdout), "Hel\n");
    assert!(
        text(&output.stderr).contains("before the answer was complete"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn an_answer_that_ends_without_done() {
    let home = Home::new();
    let _fake = home.serve(|_, peer| {
        peer.begin_stream();
        peer.token("Hel");
        peer.raw(b"0\r\n\r\n");
        true
    });
    let output = home.hyp(&["ask", "hi"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_daemon_that_hangs_up_at_once() {
    let home = Home::new();
    let _fake = home.serve(|_, _| true);
    for args in [&["ask", "hi"][..], &["models"], &["status", "--json"]] {
        let output = home.hyp(args).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(3),
            "{args:?}: {}",
            text(&output.stderr)
        );
    }
}

#[test]
fn rubbish_is_told_from_an_answer() {
    let rubbish: [&[u8]; 7] = [
        b"220 mail.example ESMTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n\xff\xfe\n",
        b"HTTP/1.1 500 Oh\r\ncontent-length: 6\r\n\r\n<html>",
        b"HTTP/1.1 302 Found\r\nlocation: http://example.com/\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n{\"event\":\"nope\"}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nxx\r\n",
    ];
    for bytes in rubbish {
        let home = Home::new();
        let _fake = home.serve(move |_, peer| {
            peer.raw(bytes);
            true
        });
        for args in [&["ask", "hi"][..], &["models"], &["models", "--json"]] {
            let output = home.hyp(args).output().unwrap();
            let code = output.status.code();
            // A line or reply that also ends too early may be told as that.
            assert!(
                matches!(code, Some(1 | 3)),
                "{args:?} {:?}: {code:?}",
                String::from_utf8_lossy(bytes)
            );
            assert_eq!(text(&output.stdout), "");
            assert!(!output.stderr.is_empty());
        }
    }
}

#[test]
fn endless_answers_are_cut_off() {
    let start = Instant::now();
    for args in [&["ask", "hi"][..], &["status"]] {
        let home = Home::new();
        let fake = home.serve(|_, peer| {
            peer.begin_stream();
            let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
            while peer.try_raw(&chunk) {}
            true
        });
        let output = home.hyp(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            text(&output.stderr).contains("is longer than"),
            "{}",
            text(&output.stderr)
        );
        assert!(fake.hung_up.recv_timeout(Duration::from_secs(5)).unwrap());
    }
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn endless_headers_are_cut_off() {
    let home = Home::new();
    let _fake = home.serve(|_, peer| {
        peer.raw(b"HTTP/1.1 200 OK\r\n");
        while peer.try_raw(b"x-more: and more and more and more and more and more and more\r\n") {}
        true
    });
    let output = home.hyp(&["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
}

#[test]
fn a_refusal_is_read_although_the_body_was_not() {
    let home = Home::new();
    let _fake = home.serve(|_, peer| {
        peer.error(&ErrorBody::new(ErrorCode::TooLarge, "longer than 8 MiB"));
        true
    });
    let output = run_with(home.hyp(&["ask"]), &vec![b'x'; 20 << 20]);
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("longer than 8 MiB"));
}

#[test]
fn a_named_socket_is_the_only_one() {
    let home = Home::new();
    let output = home.hyp(&["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(
        text(&output.stderr).contains("no daemon answers at"),
        "{}",
        text(&output.stderr)
    );
    let other = home.path("other");
    let _fake = home.serve(|_, _| true);
    let output = home
        .hyp(&["status", "--json", "--socket", other.to_str().unwrap()])
        .output()
        .unwrap();
    let told: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(told["error"]["code"], "unreachable");
    assert!(
        told["error"]["message"]
            .as_str()
            .unwrap()
            .contains(other.to_str().unwrap())
    );
}

#[test]
fn a_socket_that_may_not_be_used() {
    // The superuser may use any.
    if nix::unistd::geteuid().is_root() {
        return;
    }
    let home = Home::new();
    let _fake = home.serve(|_, _| true);
    std::fs::set_permissions(home.path("sock"), std::fs::Permissions::from_mode(0o000)).unwrap();
    let output = home.hyp(&["status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(8), "{}", text(&output.stderr));
    let output = home.hyp(&["status", "--json"]).output().unwrap();
    let told: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(told["error"]["code"], "denied");
}
