//! Answers for those who wait at systemd's socket when the daemon cannot start. Invariant: nobody waits there any more
//! afterwards, or systemd would start the daemon again for them, until it gives up the socket.
use hyprstream_protocol::{ErrorBody, ErrorCode, ErrorReply};
use listenfd::ListenFd;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

const MESSAGE: &str = "hyprstreamd cannot start; `systemctl status hyprstreamd` or `journalctl -u hyprstreamd` tells an \
                       administrator why, and a mistake in the configuration is found by `hyprstreamd --check-config`";
/// How long one of them, and how long all may take to send what they ask.
const REQUEST_MAX: Duration = Duration::from_millis(100);
const ALL_MAX: Duration = Duration::from_secs(2);

/// Answers all who wait, if the socket is systemd's and still open here.
pub fn turn_away() {
    let Ok(Some(listener)) = ListenFd::from_env().take_unix_listener(0) else {
        return;
    };
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    let start = Instant::now();
    while let Ok((stream, _)) = listener.accept() {
        // Who is gone already needs no answer.
        let _ = answer(stream, start.elapsed() < ALL_MAX);
    }
}

fn answer(mut stream: UnixStream, patient: bool) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(REQUEST_MAX))?;
    stream.set_write_timeout(Some(REQUEST_MAX))?;
    if patient {
        // An answer before its request would be no answer to some clients.
        let mut request = [0; 16 << 10];
        let _ = stream.read(&mut request);
    }
    let code = ErrorCode::Stopping;
    let error = ErrorBody::new(code, MESSAGE);
    let body = serde_json::to_string(&ErrorReply { error })?;
    write!(
        stream,
        "HTTP/1.1 {} Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: \
         close\r\n\r\n{body}",
        code.http_status(),
        body.len()
    )
}
