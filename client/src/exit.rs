//! Turns each failure into an exit code and words for people or programs. Invariant: standard output is never touched, so
//! that what is on it stays parseable.
use crate::connect::{ConnectError, Via};
use crate::http::CallError;
use crate::input::InputError;
use hyprstream_protocol::{ErrorBody, ErrorCode};
use std::io::{self, Write};

/// Exit codes and what they mean, as hyp(1) lists them.
pub const CODES: [(u8, &str); 10] = [
    (0, "Success."),
    (
        1,
        "Failure: an error of the daemon, an unreadable file, or output that cannot be written.",
    ),
    (2, "Usage: the command line is wrong."),
    (
        3,
        "No daemon: none answers and none could be started, it is stopping, or it closed the connection.",
    ),
    (
        4,
        "Busy: the daemon has too much at work, or this user has. Try again later.",
    ),
    (5, "No model has this name."),
    (
        6,
        "The model cannot be used: it is broken, too large for the memory or the disk, or lacks what the command needs.",
    ),
    (
        7,
        "The request is refused: a bad value, too long for the context, not UTF-8, or no such job.",
    ),
    (8, "Denied: this user may not do that, or may not use the socket."),
    (130, "Interrupted by Ctrl-C, or cancelled by hyp cancel."),
];

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No daemon to talk to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The text to work on cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[source] io::Error),
    /// The line editor failed.
    #[error("cannot read from the terminal: {0}")]
    Terminal(#[source] rustyline::error::ReadlineError),
}

impl Failure {
    /// The exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            // Whoever read the output has seen enough (`hyp models | head -1`).
            failure if failure.is_quiet() => 0,
            Failure::Connect(error) if error.is_denied() => ErrorCode::Denied.exit_code(),
            Failure::Connect(_) => 3,
            Failure::Call(CallError::Daemon(body)) => body.code.exit_code(),
            Failure::Call(CallError::Closed | CallError::Silent) => 3,
            Failure::Input(error) => error.exit_code(),
            Failure::Call(_) | Failure::Output(_) | Failure::Terminal(_) => 1,
        }
    }

    fn is_quiet(&self) -> bool {
        matches!(self, Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// What to do about it, where there is something to say that the message does not.
    fn hint(&self, via: Option<Via>) -> Option<String> {
        match self {
            Failure::Connect(error) => error.hint(),
            Failure::Input(error) => error.hint(),
            Failure::Call(CallError::Closed) => Some(via.unwrap_or(Via::Named).hint()),
            Failure::Call(CallError::Daemon(body)) => daemon_hint(body),
            _ => None,
        }
    }

    /// The failure as `{"error": {...}}`: the daemon's own error as it came, else a code of hyp's.
    fn json(&self) -> serde_json::Value {
        if let Failure::Call(CallError::Daemon(body)) = self {
            return serde_json::json!({ "error": body });
        }
        let code = match self {
            Failure::Connect(error) if error.is_denied() => ErrorCode::Denied.as_str(),
            Failure::Connect(_) => "unreachable",
            Failure::Call(CallError::Closed | CallError::Silent) => "connection_lost",
            Failure::Call(_) => "not_understood",
            Failure::Input(_) => "bad_input",
            Failure::Output(_) | Failure::Terminal(_) => "output",
        };
        serde_json::json!({ "error": { "code": code, "message": self.to_string() } })
    }

    /// Says it on standard error.
    pub fn report(&self, json: bool, via: Option<Via>) {
        if self.is_quiet() {
            return;
        }
        let mut text = if json {
            format!("{}\n", self.json())
        } else {
            format!("hyp: {}\n", crate::control::unturned(&self.to_string()))
        };
        if let (false, Some(hint)) = (json, self.hint(via)) {
            text.push_str(&format!("     {}\n", crate::control::unturned(&hint)));
        }
        // Nowhere is left to complain about a standard error that cannot be written.
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// What helps against an error of the daemon, where nothing in its message says so already, or says that it does not apply.
fn daemon_hint(body: &ErrorBody) -> Option<String> {
    let (said, hint): (&[&str], String) = match body.code {
        ErrorCode::Busy | ErrorCode::Stopping => (
            &["try again"],
            format!("try again in {}", seconds(body.retry_ms?)),
        ),
        // Where nothing was installed there is no model to look at, and it is not memory that a disk lacks.
        ErrorCode::ModelBroken => (
            &["hyp show", "not installed"],
            "`hyp show MODEL` tells more".to_owned(),
        ),
        ErrorCode::ModelTooLarge => (
            &["hyp unload", "disk is full"],
            "`hyp status` shows what is loaded, `hyp unload MODEL` frees memory".to_owned(),
        ),
        ErrorCode::JobNotFound => (&["hyp ps"], "`hyp ps` lists your jobs".to_owned()),
        _ => return None,
    };
    (!said.iter().any(|said| body.message.contains(said))).then_some(hint)
}

fn seconds(ms: u64) -> String {
    match ms.div_ceil(1000) {
        0 | 1 => "a second".to_owned(),
        s => format!("{s} seconds"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_daemon_is_documented() {
        for code in ErrorCode::ALL {
            assert!(
                CODES.iter().any(|(exit, _)| *exit == code.exit_code()),
                "{code:?}"
            );
        }
    }

    #[test]
    fn a_broken_pipe_is_no_failure() {
        let failure = Failure::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(failure.exit_code(), 0);
        assert_eq!(Failure::Output(io::ErrorKind::StorageFull.into()).exit_code(), 1);
    }

    #[test]
    fn busy_says_when_to_come_back() {
        let body = ErrorBody::new(ErrorCode::Busy, "64 requests wait").retry_after_ms(1500);
        let failure = Failure::Call(CallError::Daemon(body));
        assert_eq!(failure.exit_code(), 4);
        assert_eq!(failure.hint(None).unwrap(), "try again in 2 seconds");
        assert_eq!(failure.json()["error"]["retry_ms"], 1500);
    }

    #[test]
    fn a_hint_repeats_nothing() {
        let said = [
            (
                ErrorCode::JobNotFound,
                "you have no job \"x\"; `hyp ps` lists yours",
            ),
            (
                ErrorCode::Stopping,
                "the daemon is stopping; try again in a moment",
            ),
            (ErrorCode::Busy, "64 requests wait; try again in 2 seconds"),
            (
                ErrorCode::ModelBroken,
                "it was not installed, as it cannot be used: no GGUF file",
            ),
            (
                ErrorCode::ModelTooLarge,
                "the models folder's disk is full; make room, or set another [storage] models",
            ),
        ];
        for (code, message) in said {
            let body = ErrorBody::new(code, message).retry_after_ms(1500);
            assert_eq!(
                Failure::Call(CallError::Daemon(body)).hint(None),
                None,
                "{message}"
            );
        }
    }
}
