//! Reads a streaming answer line by line. Invariant: a line never takes more than [`LINE_BYTES_MAX`], and a stream that ends
//! without `done` or `error` is an error.
use crate::http::CallError;
use hyprstream_protocol::Event;
use std::io::{BufRead, BufReader, Read};

/// Longest line of a stream. The longest that the daemon sends is a token with twenty alternatives, some kilobytes.
pub const LINE_BYTES_MAX: usize = 1 << 20;

/// One event, as it came and as a value.
#[derive(Debug)]
pub struct Line {
    /// The JSON text without its line end.
    pub text: String,
    /// What it says.
    pub event: Event,
}

/// The events of one answer. Ends after `done`; an `error` event is handed out like any other and ends it too.
#[derive(Debug)]
pub struct Events<R> {
    reader: BufReader<R>,
    over: bool,
}

impl<R: Read> Events<R> {
    /// Events from the body of an answer.
    pub fn new(body: R) -> Self {
        Events {
            reader: BufReader::new(body),
            over: false,
        }
    }

    fn line(&mut self) -> Result<Line, CallError> {
        loop {
            let bytes = read_line(&mut self.reader)?;
            let text = String::from_utf8(bytes).map_err(|_| CallError::Garbage {
                why: "an event is not UTF-8".to_owned(),
            })?;
            if text.is_empty() {
                continue;
            }
            let event = serde_json::from_str(&text).map_err(|error| CallError::Garbage {
                why: format!("an event cannot be read: {error}"),
            })?;
            return Ok(Line { text, event });
        }
    }
}

impl<R: Read> Iterator for Events<R> {
    type Item = Result<Line, CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let line = self.line();
        self.over = matches!(
            &line,
            Err(_)
                | Ok(Line {
                    event: Event::Done { .. } | Event::Error(_),
                    ..
                })
        );
        Some(line)
    }
}

/// One line without its end; [`CallError::Closed`] where the stream ends first, for each answer has a last line.
fn read_line(reader: &mut impl BufRead) -> Result<Vec<u8>, CallError> {
    let mut line = Vec::new();
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Err(CallError::Closed);
        }
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let part = buffer.get(..end.unwrap_or(buffer.len())).unwrap_or_default();
        if line.len().saturating_add(part.len()) > LINE_BYTES_MAX {
            return Err(CallError::TooLong {
                limit: LINE_BYTES_MAX as u64,
            });
        }
        line.extend_from_slice(part);
        let used = part.len().saturating_add(usize::from(end.is_some()));
        reader.consume(used);
        if end.is_some() {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: &str = concat!(
        r#"{"event":"done","reason":"stop","usage":{"prompt_tokens":1,"completion_tokens":1},"#,
        r#""timings":{"queue_ms":0.0,"prefill_ms":0.0,"decode_ms":0.0}}"#
    );

    #[test]
    fn events_end_with_done() {
        let body = format!("{{\"event\":\"queued\",\"ahead\":2}}\r\n\n{DONE}\nrubbish that nobody reads");
        let lines: Vec<_> = Events::new(body.as_bytes()).map(Result::unwrap).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].event, Event::Queued { ahead: 2 });
        assert_eq!(lines[1].text, DONE);
    }

    #[test]
    fn a_stream_that_breaks_is_an_error() {
        let mut events = Events::new(&b"{\"event\":\"queued\",\"ahead\":2}\n{\"event\":\"tok"[..]);
        assert!(events.next().unwrap().is_ok());
        assert!(matches!(events.next(), Some(Err(CallError::Closed))));
        assert!(events.next().is_none());
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut events = Events::new(std::io::repeat(b'x'));
        assert!(matches!(events.next(), Some(Err(CallError::TooLong { .. }))));
    }

    #[test]
    fn rubbish_is_refused() {
        for body in [
            &b"hello\n"[..],
            b"\xff\xfe\n",
            b"{\"event\":\"dance\"}\n",
            b"[]\n",
        ] {
            assert!(matches!(
                Events::new(body).next(),
                Some(Err(CallError::Garbage { .. }))
            ));
        }
    }
}
