//! A stand-in for the daemon, and `hyp` with a home of its own. Invariant: the stand-in says exactly the bytes that a test gives
//! it, and ends with the test.
use hyprstream_protocol::{ErrorBody, ErrorReply};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;

/// A request as the stand-in got it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub body: Value,
}

/// The other end of one connection.
pub struct Peer {
    stream: UnixStream,
}

impl Peer {
    pub fn raw(&mut self, bytes: &[u8]) {
        // The client may have gone; the test looks at its side.
        let _ = self.try_raw(bytes);
    }

    /// Whether the client still takes it.
    pub fn try_raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub fn reply(&mut self, status: u16, body: &str) {
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n");
        self.raw(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    }

    pub fn error(&mut self, error: &ErrorBody) {
        let body = serde_json::to_string(&ErrorReply { error: error.clone() }).unwrap();
        self.reply(error.code.http_status(), &body);
    }

    pub fn begin_stream(&mut self) {
        self.raw(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n",
        );
    }

    pub fn event(&mut self, line: &str) {
        self.raw(format!("{:x}\r\n{line}\n\r\n", line.len() + 1).as_bytes());
    }

    pub fn token(&mut self, text: &str) {
        self.event(&token(text));
    }

    pub fn end_stream(&mut self) {
        self.event(DONE);
        self.raw(b"0\r\n\r\n");
    }

    pub fn answer(&mut self, text: &str) {
        self.begin_stream();
        self.event(STARTED);
        for word in text.split_inclusive(' ') {
            self.token(word);
        }
        self.end_stream();
    }

    /// Waits until the client hangs up; false where it is still there after ten seconds.
    pub fn wait_for_hangup(&mut self) -> bool {
        self.stream
            .set_read_timeout(Some(std::time::Duration::from_secs(10)))
            .unwrap();
        match self.stream.read(&mut [0; 64]) {
            Ok(n) => n == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

pub const STARTED: &str = r#"{"event":"started","id":"r1","model":"m","prompt_tokens":3}"#;
pub const DONE: &str = r#"{"event":"done","reason":"stop","usage":{"prompt_tokens":3,"completion_tokens":2},"timings":{"queue_ms":0.0,"prefill_ms":1.0,"decode_ms":2.0}}"#;

pub fn token(text: &str) -> String {
    format!(r#"{{"event":"token","text":{},"token":7}}"#, Value::from(text))
}

/// A stand-in at work.
pub struct Fake {
    pub seen: Arc<Mutex<Vec<Seen>>>,
    pub hung_up: Receiver<bool>,
}

/// Serves `socket`, one thread a connection. What `handle` returns lands in [`Fake::hung_up`].
pub fn serve(socket: &Path, handle: impl Fn(&Seen, &mut Peer) -> bool + Send + Sync + 'static) -> Fake {
    let listener = UnixListener::bind(socket).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (send, hung_up) = channel();
    let (handle, all) = (Arc::new(handle), Arc::clone(&seen));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (handle, all, send) = (Arc::clone(&handle), Arc::clone(&all), send.clone());
            thread::spawn(move || {
                let Some(request) = read_request(&stream) else {
                    return;
                };
                all.lock().unwrap().push(request.clone());
                let _ = send.send(handle(&request, &mut Peer { stream }));
            });
        }
    });
    Fake { seen, hung_up }
}

fn read_request(stream: &UnixStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).ok()? == 0 {
            return None;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if header == "\r\n" {
            break;
        }
    }
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    // Only a part of a large body is read: a daemon that refuses it does the same.
    let mut body = vec![0; std::cmp::min(length, 1 << 20)];
    reader.read_exact(&mut body).ok()?;
    Some(Seen {
        line,
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    })
}

/// A folder with everything that `hyp` may touch.
pub struct Home {
    pub folder: TempDir,
}

impl Home {
    pub fn new() -> Self {
        Home {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `hyp` without a socket.
    pub fn bare(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyp"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("PATH", self.path("bin"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `hyp` with the socket of [`Home::serve`].
    pub fn hyp(&self, args: &[&str]) -> Command {
        let mut command = self.bare(args);
        command.env("HYPRSTREAM_SOCKET", self.path("sock"));
        command
    }

    pub fn serve(&self, handle: impl Fn(&Seen, &mut Peer) -> bool + Send + Sync + 'static) -> Fake {
        serve(&self.path("sock"), handle)
    }
}

/// Runs with this on standard input.
pub fn run_with(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    // On a thread of its own, and without complaint: a client that refuses its input does not read all of it.
    let writer = thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
