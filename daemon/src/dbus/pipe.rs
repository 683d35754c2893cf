//! The stream that a call returns: a pipe, whose other end we write as the answer comes. Invariant: no write ever blocks
//! a thread, what waits is bounded by the pipe, and a reader that is gone or deaf is noticed.
use crate::errors::Failure;
use hyprstream_protocol::{ErrorCode, Event};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::unix::pipe;

/// What goes through the pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The answer's text, nothing else.
    #[default]
    Text,
    /// Every event as a line of JSON, as on the socket.
    Events,
}

/// Our end of the pipe.
pub struct Outlet {
    writer: pipe::Sender,
    format: Format,
    stall: Duration,
}

/// A pipe: our end, and the one for the caller.
pub fn open(format: Format, stall: Duration) -> Result<(Outlet, OwnedFd), Failure> {
    let pair = pipe::pipe().and_then(|(writer, reader)| Ok((writer, reader.into_blocking_fd()?)));
    let (writer, reader) = pair.map_err(|error| no_pipe(&error))?;
    let outlet = Outlet {
        writer,
        format,
        stall,
    };
    Ok((outlet, reader))
}

fn no_pipe(error: &io::Error) -> Failure {
    tracing::warn!("no pipe for an answer: {error}");
    Failure::new(
        ErrorCode::Busy,
        "the daemon has too many streams open; try again in a moment",
    )
}

impl Outlet {
    /// Returns when the reader has closed its end.
    pub async fn gone(&self) {
        // An error would be the runtime's end, which ends this task too.
        let _ = self.writer.ready(Interest::ERROR).await;
    }

    /// Writes what an event has for this format.
    pub async fn put(&mut self, event: &Event) -> Result<(), Failure> {
        let mut line = Vec::new();
        let bytes = match (self.format, event) {
            (Format::Text, Event::Token(token)) => token.text.as_bytes(),
            (Format::Text, _) => return Ok(()),
            (Format::Events, event) => {
                serde_json::to_writer(&mut line, event)
                    .map_err(|_| Failure::fault("an event could not be written as JSON"))?;
                line.push(b'\n');
                &line
            }
        };
        if bytes.is_empty() {
            return Ok(());
        }
        match tokio::time::timeout(self.stall, self.writer.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Failure::cancelled()),
            Err(_) => Err(Failure::new(
                ErrorCode::Cancelled,
                format!(
                    "the stream was not read for {} s ([limits] stall), so the answer was ended",
                    self.stall.as_secs_f32()
                ),
            )),
        }
    }

    /// Tells of a failure, as far as there is room for it.
    pub fn fail(&self, failure: &Failure) {
        if self.format == Format::Events
            && let Ok(mut line) = serde_json::to_vec(&Event::Error(failure.0.clone()))
        {
            line.push(b'\n');
            // Whoever does not read misses this too; the job has it.
            let _ = self.writer.try_write(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyprstream_protocol::TokenEvent;
    use std::io::Read;

    fn token(text: String) -> Event {
        Event::Token(TokenEvent {
            text,
            ..TokenEvent::default()
        })
    }

    #[tokio::test]
    async fn a_reader_that_goes_is_noticed_without_a_write() {
        let (outlet, reader) = open(Format::Text, Duration::from_secs(9)).unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(50), outlet.gone()).await;
        assert!(waiting.is_err(), "the reader is still there");
        drop(reader);
        tokio::time::timeout(Duration::from_secs(9), outlet.gone())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_deaf_reader_is_given_up_and_a_live_one_gets_the_text() {
        let (mut outlet, reader) = open(Format::Text, Duration::from_millis(50)).unwrap();
        outlet.put(&token("héllo".into())).await.unwrap();
        let error = outlet.put(&token("x".repeat(1 << 20))).await.unwrap_err().0;
        assert!(error.message.contains("not read"), "{error:?}");
        drop(outlet);
        let mut text = String::new();
        std::fs::File::from(reader).read_to_string(&mut text).unwrap();
        assert!(text.starts_with("hélloxxx"));
    }
}
