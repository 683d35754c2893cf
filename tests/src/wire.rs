//! HTTP over the Unix socket, by hand, so that it can also be spoken wrongly. Invariant: every read and write has a
//! deadline.
use crate::wait::SOON;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Head, as it came.
    pub head: String,
    /// Body.
    pub body: String,
}

impl Reply {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The body as JSON, one value a line.
    pub fn lines(&self) -> Vec<Value> {
        self.body
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    /// The error of an answer with this status.
    pub fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let error = self.json()["error"].clone();
        assert!(
            error["message"].as_str().is_some_and(|m| !m.is_empty()),
            "{self:?}"
        );
        error
    }
}

/// An answer whose body is still to be read.
pub struct Answer {
    status: u16,
    head: String,
    body: Body,
}

impl Answer {
    /// Status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The next line of JSON; none at the end, or where the connection breaks.
    pub fn event(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.body.read_line(&mut line) {
            Ok(1..) => Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))),
            _ => None,
        }
    }

    /// Reads on until an event of this kind.
    pub fn await_event(&mut self, kind: &str) -> Value {
        loop {
            let event = self
                .event()
                .unwrap_or_else(|| panic!("the answer ended without {kind}"));
            if event["event"] == kind {
                return event;
            }
        }
    }

    fn whole(mut self) -> Option<Reply> {
        let mut bytes = Vec::new();
        self.body.read_to_end(&mut bytes).ok()?;
        Some(Reply {
            status: self.status,
            head: self.head,
            body: String::from_utf8_lossy(&bytes).into_owned(),
        })
    }
}

type Body = Box<dyn BufRead + Send>;

/// Connects.
pub fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    Ok(stream)
}

/// `GET`, where a daemon may not be there yet.
pub fn try_get(socket: &Path, path: &str) -> Option<Reply> {
    let mut stream = connect(socket).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    .ok()?;
    answer(stream)?.whole()
}

/// `GET`.
pub fn get(socket: &Path, path: &str) -> Reply {
    try_get(socket, path).unwrap_or_else(|| panic!("no answer to GET {path}"))
}

/// `POST` of JSON, with the whole answer.
pub fn post(socket: &Path, path: &str, body: &Value) -> Reply {
    open(socket, path, body)
        .whole()
        .unwrap_or_else(|| panic!("the answer to POST {path} broke"))
}

/// `POST` of JSON, with the answer to be read bit by bit.
pub fn open(socket: &Path, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let head = format!("content-type: application/json\r\ncontent-length: {}", body.len());
    let mut stream = connect(socket).unwrap();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{head}\r\n\r\n{body}"
    )
    .unwrap();
    answer(stream).unwrap_or_else(|| panic!("no answer to POST {path}"))
}

/// Sends these bytes and reads what comes back; none where the connection is closed without an answer.
pub fn raw(socket: &Path, bytes: &[u8]) -> Option<Reply> {
    let mut stream = connect(socket).unwrap();
    // A server that refuses the head closes before the rest is sent; its answer is there all the same.
    let _ = stream.write_all(bytes);
    answer(stream)?.whole()
}

/// Reads the head of an answer.
pub fn answer(stream: UnixStream) -> Option<Answer> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).ok()? > 2 {}
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let lower = head.to_ascii_lowercase();
    let body: Body = if lower.contains("transfer-encoding: chunked") {
        Box::new(BufReader::new(Chunked {
            reader,
            left: 0,
            ended: false,
        }))
    } else {
        let length = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        Box::new(reader.take(length.unwrap_or(u64::MAX)))
    };
    Some(Answer { status, head, body })
}

/// Takes the chunks' frames away.
struct Chunked<R> {
    reader: R,
    left: u64,
    ended: bool,
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let broken = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        while self.left == 0 && !self.ended {
            let mut size = String::new();
            self.reader.read_line(&mut size)?;
            if size == "\r\n" {
                continue;
            }
            self.left = u64::from_str_radix(size.trim_end(), 16).map_err(|_| broken())?;
            self.ended = self.left == 0;
        }
        let count = self.reader.by_ref().take(self.left).read(out)?;
        if count == 0 && self.left > 0 {
            return Err(broken());
        }
        self.left -= count as u64;
        Ok(count)
    }
}
