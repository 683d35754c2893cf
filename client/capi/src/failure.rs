//! Why a call failed. Invariant: each failure has one code and a text for people, without the terminal's hints.
use crate::code::hypr_code;
use hyprstream_client::connect::ConnectError;
use hyprstream_client::http::CallError;
use hyprstream_protocol::ErrorCode;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What the caller passed cannot be used.
    #[error("{name} {why}")]
    Argument {
        /// The argument, as the header calls it.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing to talk to yet.
    #[error("hypr_connect() has not succeeded yet")]
    NotConnected,
    /// The call was ended from this side.
    #[error("the call was cancelled by the {by}")]
    Cancelled {
        /// Who did it.
        by: &'static str,
    },
    /// No daemon.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The daemon's word, or what became of the connection.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A panic in here.
    #[error("a fault of libhyprstream: {0}")]
    Fault(String),
}

impl Failure {
    /// An argument that is refused.
    pub fn argument(name: &'static str, why: impl Into<String>) -> Failure {
        Failure::Argument {
            name,
            why: why.into(),
        }
    }

    /// The code.
    pub fn code(&self) -> hypr_code {
        match self {
            Failure::Argument { .. } => hypr_code::HYPR_BAD_ARGUMENT,
            Failure::NotConnected => hypr_code::HYPR_NOT_CONNECTED,
            Failure::Cancelled { .. } => ErrorCode::Cancelled.into(),
            Failure::Connect(error) if error.is_denied() => ErrorCode::Denied.into(),
            Failure::Connect(_) => hypr_code::HYPR_UNREACHABLE,
            Failure::Call(CallError::Daemon(body)) => body.code.into(),
            Failure::Call(CallError::Closed | CallError::Silent | CallError::Io(_)) => {
                hypr_code::HYPR_CONNECTION_LOST
            }
            Failure::Call(CallError::TooLong { .. } | CallError::Garbage { .. }) => {
                hypr_code::HYPR_NOT_UNDERSTOOD
            }
            Failure::Call(CallError::Request(_)) => hypr_code::HYPR_BAD_ARGUMENT,
            Failure::Fault(_) => hypr_code::HYPR_FAULT,
        }
    }

    /// After how many milliseconds a retry may work; 0 where nobody knows.
    pub fn retry_ms(&self) -> u64 {
        match self {
            Failure::Call(CallError::Daemon(body)) => body.retry_ms.unwrap_or(0),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyprstream_protocol::ErrorBody;

    #[test]
    fn the_daemons_error_passes_as_it_is() {
        let body = ErrorBody::new(ErrorCode::Busy, "64 requests wait").retry_after_ms(1500);
        let failure = Failure::from(CallError::Daemon(body));
        assert_eq!(failure.code(), hypr_code::HYPR_BUSY);
        assert_eq!(failure.retry_ms(), 1500);
        assert_eq!(failure.to_string(), "64 requests wait");
    }
}
