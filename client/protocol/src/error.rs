//! Errors as clients see them. Invariant: a code decides the HTTP status, the exit code and whether a retry helps;
//! nothing else does.
use serde::{Deserialize, Serialize};

/// What went wrong, for programs. [`ErrorBody::message`] says it for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is not JSON, misses a field, or a field has a value that is not allowed.
    BadRequest,
    /// No route has this path.
    NoSuchRoute,
    /// The route does not take this method; the header `Allow` has those that it takes.
    NoSuchMethod,
    /// The request's body is larger than the configured limit.
    TooLarge,
    /// The request's body is compressed, or encoded in another way.
    UnsupportedEncoding,
    /// No model has this name.
    ModelNotFound,
    /// The model is listed, but its files cannot be used; the message says why.
    ModelBroken,
    /// The model needs more memory than the budget leaves; the message has the numbers.
    ModelTooLarge,
    /// The model has no tokenizer (or no chat template) and the request needs one.
    ModelLacks,
    /// Prompt and answer do not fit the context; the message has both numbers.
    ContextExceeded,
    /// No job of this user has this id.
    JobNotFound,
    /// The queue is full; try again after `retry_ms`.
    Busy,
    /// The daemon is stopping; try again after `retry_ms`.
    Stopping,
    /// The request was cancelled by its client or by `DELETE /jobs/ID`.
    Cancelled,
    /// The caller may not do this.
    Denied,
    /// The request came over TCP without a token, or with a wrong one.
    Unauthenticated,
    /// A fault of the daemon. It is in the journal under the request's id.
    Internal,
}

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request must change.
    Client,
    /// The same request may work later, or elsewhere.
    Server,
}

impl ErrorCode {
    /// Every code, for tables in documentation and tests.
    pub const ALL: [ErrorCode; 17] = [
        ErrorCode::BadRequest,
        ErrorCode::NoSuchRoute,
        ErrorCode::NoSuchMethod,
        ErrorCode::TooLarge,
        ErrorCode::UnsupportedEncoding,
        ErrorCode::ModelNotFound,
        ErrorCode::ModelBroken,
        ErrorCode::ModelTooLarge,
        ErrorCode::ModelLacks,
        ErrorCode::ContextExceeded,
        ErrorCode::JobNotFound,
        ErrorCode::Busy,
        ErrorCode::Stopping,
        ErrorCode::Cancelled,
        ErrorCode::Denied,
        ErrorCode::Unauthenticated,
        ErrorCode::Internal,
    ];

    /// The HTTP status of an answer with this code.
    pub const fn http_status(self) -> u16 {
        match self {
            ErrorCode::BadRequest | ErrorCode::ContextExceeded | ErrorCode::ModelLacks => 400,
            ErrorCode::Unauthenticated => 401,
            ErrorCode::Denied => 403,
            ErrorCode::NoSuchRoute | ErrorCode::ModelNotFound | ErrorCode::JobNotFound => 404,
            ErrorCode::NoSuchMethod => 405,
            ErrorCode::TooLarge => 413,
            ErrorCode::UnsupportedEncoding => 415,
            ErrorCode::ModelBroken => 422,
            ErrorCode::Busy => 429,
            ErrorCode::Cancelled => 499,
            ErrorCode::Internal => 500,
            ErrorCode::Stopping => 503,
            ErrorCode::ModelTooLarge => 507,
        }
    }

    /// The exit code of `hyp` for this error; hyp(1) lists them.
    pub const fn exit_code(self) -> u8 {
        match self {
            ErrorCode::Internal | ErrorCode::NoSuchRoute | ErrorCode::NoSuchMethod => 1,
            ErrorCode::Stopping => 3,
            ErrorCode::Busy => 4,
            ErrorCode::ModelNotFound => 5,
            ErrorCode::ModelBroken | ErrorCode::ModelTooLarge | ErrorCode::ModelLacks => 6,
            ErrorCode::BadRequest
            | ErrorCode::TooLarge
            | ErrorCode::UnsupportedEncoding
            | ErrorCode::ContextExceeded
            | ErrorCode::JobNotFound => 7,
            ErrorCode::Denied | ErrorCode::Unauthenticated => 8,
            ErrorCode::Cancelled => 130,
        }
    }

    /// Whose fault it is.
    pub const fn blame(self) -> Blame {
        match self {
            ErrorCode::Busy | ErrorCode::Stopping | ErrorCode::Internal | ErrorCode::ModelTooLarge => {
                Blame::Server
            }
            _ => Blame::Client,
        }
    }

    /// The code as it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ErrorCode::BadRequest => "bad_request",
            ErrorCode::NoSuchRoute => "no_such_route",
            ErrorCode::NoSuchMethod => "no_such_method",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::UnsupportedEncoding => "unsupported_encoding",
            ErrorCode::ModelNotFound => "model_not_found",
            ErrorCode::ModelBroken => "model_broken",
            ErrorCode::ModelTooLarge => "model_too_large",
            ErrorCode::ModelLacks => "model_lacks",
            ErrorCode::ContextExceeded => "context_exceeded",
            ErrorCode::JobNotFound => "job_not_found",
            ErrorCode::Busy => "busy",
            ErrorCode::Stopping => "stopping",
            ErrorCode::Cancelled => "cancelled",
            ErrorCode::Denied => "denied",
            ErrorCode::Unauthenticated => "unauthenticated",
            ErrorCode::Internal => "internal",
        }
    }
}

/// One error: `{"code": "busy", "message": "...", "retry_ms": 500}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what happened and what to do, in a sentence or two.
    pub message: String,
    /// After how many milliseconds a retry may work, where one may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u64>,
    /// The request field to blame, where there is one (`sampling.top_p`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

impl ErrorBody {
    /// An error without retry hint or field.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        ErrorBody {
            code,
            message: message.into(),
            retry_ms: None,
            field: None,
        }
    }

    /// The same, with the time after which a retry may work.
    pub fn retry_after_ms(mut self, retry_ms: u64) -> Self {
        self.retry_ms = Some(retry_ms);
        self
    }

    /// The same, with the request field to blame.
    pub fn for_field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}

impl std::fmt::Display for ErrorBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ErrorBody {}

/// The body of an answer whose status is not 2xx: `{"error": {...}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// The error.
    pub error: ErrorBody,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_names_agree_with_serde() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
