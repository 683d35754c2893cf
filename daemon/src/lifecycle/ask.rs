//! `hyprstreamd --reload`: asks the running daemon to read its configuration again, and waits for the outcome. Invariant: a
//! configuration with mistakes never gets as far as the daemon.
use hyprstream_protocol::{API_PREFIX, ErrorReply, ReloadReply};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Reading files takes a moment; a daemon that needs longer is stuck.
const PATIENCE: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What to tell people, or what went wrong.
pub fn reload(socket: &Path) -> Result<String, String> {
    let (ok, body) = post(socket).map_err(|error| {
        format!(
            "the daemon at {} cannot be asked: {error}; is it running?",
            socket.display()
        )
    })?;
    if !ok {
        let reply: Result<ErrorReply, _> = serde_json::from_slice(&body);
        return Err(reply.map_or_else(
            |_| "the daemon gave no sensible answer".to_owned(),
            |reply| reply.error.message,
        ));
    }
    let reply: ReloadReply = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    Ok(match reply.waiting.as_slice() {
        [] => "the configuration was read again".to_owned(),
        waiting => format!("these settings wait for a restart: {}", waiting.join(", ")),
    })
}

fn post(socket: &Path) -> std::io::Result<(bool, Vec<u8>)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "POST {API_PREFIX}/reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let body = end.and_then(|end| answer.get(end + 4..)).unwrap_or_default();
    Ok((answer.starts_with(b"HTTP/1.1 200 "), body.to_vec()))
}
