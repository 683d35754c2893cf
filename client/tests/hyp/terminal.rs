//! What a person sees: run in a pseudo-terminal.
use crate::fake::{Home, STARTED};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A program in a terminal.
struct Terminal {
    keys: File,
    screen: Arc<Mutex<Vec<u8>>>,
    child: Child,
}

impl Terminal {
    fn run(mut command: Command) -> Terminal {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let stdio = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
        command
            .env("TERM", "xterm")
            .stdin(stdio(&slave))
            .stdout(stdio(&slave))
            .stderr(stdio(&slave));
        let child = command.spawn().unwrap();
        drop((command, slave));
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, seen) = (File::from(master.try_clone().unwrap()), Arc::clone(&screen));
        thread::spawn(move || {
            let mut bytes = [0; 1024];
            // Ends with an error once nobody holds the other side.
            while let Ok(n @ 1..) = reader.read(&mut bytes) {
                seen.lock().unwrap().extend_from_slice(&bytes[..n]);
            }
        });
        Terminal {
            keys: File::from(master),
            screen,
            child,
        }
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Waits until `count` of `what` have been on the screen.
    fn expect(&self, what: &str, count: usize) {
        let start = Instant::now();
        while self.screen().matches(what).count() < count {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "no {what:?} in {:?}",
                self.screen()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn key(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn interrupt(&self) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[test]
fn waiting_shows_and_goes() {
    let home = Home::new();
    let _fake = home.serve(|_, peer| {
        peer.begin_stream();
        peer.event(r#"{"event":"loading","model":"m","stage":"weights","progress":0.5}"#);
        thread::sleep(Duration::from_millis(400));
        peer.event(r#"{"event":"queued","ahead":2}"#);
        thread::sleep(Duration::from_millis(400));
        peer.event(STARTED);
        peer.token("Hello\u{1b}]0;x\u{7}");
        peer.end_stream();
        true
    });
    let mut terminal = Terminal::run(home.hyp(&["ask", "hi"]));
    terminal.expect("loading m: reading the weights 50%", 1);
    terminal.expect("waiting: 2 ahead", 1);
    terminal.expect("Hello␛]0;x␇\r\n", 1);
    let screen = terminal.screen();
    assert!(
        screen.ends_with("\r\u{1b}[KHello␛]0;x␇\r\n"),
        "the line is erased before the answer: {screen:?}"
    );
    assert_eq!(terminal.code(), Some(0));
}

#[test]
fn quiet_is_quiet() {
    let home = Home::new();
    let _fake = home.serve(|_, peer| {
        thread::sleep(Duration::from_millis(400));
        peer.answer("Hello");
        true
    });
    let mut terminal = Terminal::run(home.hyp(&["ask", "-q", "hi"]));
    assert_eq!(terminal.code(), Some(0));
    terminal.expect("Hello\r\n", 1);
    assert_eq!(terminal.screen(), "Hello\r\n");
}

#[test]
fn asking_nothing_at_a_terminal_is_a_usage_error() {
    let home = Home::new();
    for command in ["ask", "tokenize"] {
        let mut terminal = Terminal::run(home.hyp(&[command]));
        terminal.expect("Usage:", 1);
        assert_eq!(terminal.code(), Some(2));
    }
}

#[test]
fn a_table_has_headings_at_a_terminal() {
    let home = Home::new();
    let _fake = home.serve(|_, peer| {
        peer.reply(
            200,
            r#"{"models":[{"name":"m","state":"available","bytes":604000000,"modified_s":0}],"default":"m"}"#,
        );
        true
    });
    let mut terminal = Terminal::run(home.hyp(&["models"]));
    terminal.expect("NAME  STATE", 1);
    terminal.expect("604 MB", 1);
    assert_eq!(terminal.code(), Some(0));
}

#[test]
fn ctrl_c_in_a_talk_stops_the_answer_alone() {
    let home = Home::new();
    let fake = home.serve(|seen, peer| {
        if seen.body["messages"].as_array().unwrap().len() > 1 {
            peer.answer("Goodbye");
            return true;
        }
        peer.begin_stream();
        peer.token("Hel");
        peer.wait_for_hangup()
    });
    let mut terminal = Terminal::run(home.hyp(&["chat"]));
    terminal.expect("> ", 1);
    terminal.key("hello\r");
    terminal.expect("Hel", 1);
    terminal.interrupt();
    assert!(fake.hung_up.recv_timeout(Duration::from_secs(5)).unwrap());
    terminal.expect("stopped", 1);
    terminal.key("bye\r");
    terminal.expect("Goodbye", 1);
    let sent = fake.seen.lock().unwrap()[1].body["messages"].clone();
    assert_eq!(
        sent[1],
        serde_json::json!({"role": "assistant", "content": "Hel"})
    );
    terminal.key("\u{4}");
    assert_eq!(terminal.code(), Some(0));
    let history = home.path("state/hyprstream/hyp_history");
    assert_eq!(
        std::fs::metadata(&history).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let history = std::fs::read_to_string(history).unwrap();
    assert!(history.contains("hello\nbye\n"), "{history}");
}

#[test]
fn an_error_does_not_end_a_talk() {
    let home = Home::new();
    let mut terminal = Terminal::run(home.hyp(&["chat"]));
    terminal.expect("> ", 1);
    terminal.key("hello\r");
    terminal.expect("no daemon answers", 1);
    terminal.key("/nonsense\r");
    terminal.expect("there is no command /nonsense", 1);
    terminal.key("/quit\r");
    assert_eq!(terminal.code(), Some(0));
}
