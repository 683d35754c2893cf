//! What a call returns. Invariant: numbers never change their meaning; 1 to 99 are the daemon's codes, from 100 on the
//! library's own.
#![allow(non_camel_case_types)] // The header has these names.

use hyprstream_protocol::ErrorCode;

/// How a call ended. The daemon's codes are those of hyprstreamd(8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum hypr_code {
    /// Well.
    HYPR_OK = 0,
    /// The daemon refuses the request: a value that is not allowed.
    HYPR_BAD_REQUEST = 1,
    /// The daemon is too old for this library.
    HYPR_NO_SUCH_ROUTE = 2,
    /// The request is larger than the daemon's limit.
    HYPR_TOO_LARGE = 3,
    /// No model has this name, or there is none at all.
    HYPR_MODEL_NOT_FOUND = 4,
    /// The model's files cannot be used.
    HYPR_MODEL_BROKEN = 5,
    /// The model needs more memory than is left.
    HYPR_MODEL_TOO_LARGE = 6,
    /// The model has no tokenizer or chat template, and the request needs one.
    HYPR_MODEL_LACKS = 7,
    /// Prompt and answer do not fit the model's context.
    HYPR_CONTEXT_EXCEEDED = 8,
    /// The user has no such job.
    HYPR_JOB_NOT_FOUND = 9,
    /// The daemon's queue is full: try again after hypr_error_retry_ms().
    HYPR_BUSY = 10,
    /// The daemon is stopping: try again after hypr_error_retry_ms().
    HYPR_STOPPING = 11,
    /// The call was cancelled: by the callback, hypr_cancel(), hypr_free(), or another program of the user.
    HYPR_CANCELLED = 12,
    /// This user may not do that, or may not use the socket.
    HYPR_DENIED = 13,
    /// A fault of the daemon; its journal tells more.
    HYPR_INTERNAL = 14,
    /// The daemon is too old for this library, or too new: the route does not take this method.
    HYPR_NO_SUCH_METHOD = 15,
    /// Over TCP: no token, or a wrong one.
    HYPR_UNAUTHENTICATED = 16,
    /// The daemon takes no body that is compressed; this library sends none.
    HYPR_UNSUPPORTED_ENCODING = 17,
    /// No daemon answers.
    HYPR_UNREACHABLE = 100,
    /// The connection ended before the answer did, or nothing came for too long.
    HYPR_CONNECTION_LOST = 101,
    /// What came is not what hyprstreamd sends.
    HYPR_NOT_UNDERSTOOD = 102,
    /// An argument is NULL where it must not be, is not UTF-8, or has a value that makes no sense.
    HYPR_BAD_ARGUMENT = 103,
    /// hypr_connect() has not succeeded yet.
    HYPR_NOT_CONNECTED = 104,
    /// Another call of the same client is under way. The error of that client stays what it was.
    HYPR_IN_USE = 105,
    /// A fault of this library.
    HYPR_FAULT = 106,
}

use hypr_code::*;

impl hypr_code {
    /// cbindgen:ignore
    /// Every code.
    pub const ALL: [hypr_code; 25] = [
        HYPR_OK,
        HYPR_BAD_REQUEST,
        HYPR_NO_SUCH_ROUTE,
        HYPR_TOO_LARGE,
        HYPR_MODEL_NOT_FOUND,
        HYPR_MODEL_BROKEN,
        HYPR_MODEL_TOO_LARGE,
        HYPR_MODEL_LACKS,
        HYPR_CONTEXT_EXCEEDED,
        HYPR_JOB_NOT_FOUND,
        HYPR_BUSY,
        HYPR_STOPPING,
        HYPR_CANCELLED,
        HYPR_DENIED,
        HYPR_INTERNAL,
        HYPR_NO_SUCH_METHOD,
        HYPR_UNAUTHENTICATED,
        HYPR_UNSUPPORTED_ENCODING,
        HYPR_UNREACHABLE,
        HYPR_CONNECTION_LOST,
        HYPR_NOT_UNDERSTOOD,
        HYPR_BAD_ARGUMENT,
        HYPR_NOT_CONNECTED,
        HYPR_IN_USE,
        HYPR_FAULT,
    ];

    /// The code's name: the daemon's as on the wire, the library's likewise.
    pub const fn name(self) -> &'static std::ffi::CStr {
        match self {
            HYPR_OK => c"ok",
            HYPR_BAD_REQUEST => c"bad_request",
            HYPR_NO_SUCH_ROUTE => c"no_such_route",
            HYPR_TOO_LARGE => c"too_large",
            HYPR_MODEL_NOT_FOUND => c"model_not_found",
            HYPR_MODEL_BROKEN => c"model_broken",
            HYPR_MODEL_TOO_LARGE => c"model_too_large",
            HYPR_MODEL_LACKS => c"model_lacks",
            HYPR_CONTEXT_EXCEEDED => c"context_exceeded",
            HYPR_JOB_NOT_FOUND => c"job_not_found",
            HYPR_BUSY => c"busy",
            HYPR_STOPPING => c"stopping",
            HYPR_CANCELLED => c"cancelled",
            HYPR_DENIED => c"denied",
            HYPR_INTERNAL => c"internal",
            HYPR_NO_SUCH_METHOD => c"no_such_method",
            HYPR_UNAUTHENTICATED => c"unauthenticated",
            HYPR_UNSUPPORTED_ENCODING => c"unsupported_encoding",
            HYPR_UNREACHABLE => c"unreachable",
            HYPR_CONNECTION_LOST => c"connection_lost",
            HYPR_NOT_UNDERSTOOD => c"not_understood",
            HYPR_BAD_ARGUMENT => c"bad_argument",
            HYPR_NOT_CONNECTED => c"not_connected",
            HYPR_IN_USE => c"in_use",
            HYPR_FAULT => c"fault",
        }
    }
}

impl From<ErrorCode> for hypr_code {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::BadRequest => HYPR_BAD_REQUEST,
            ErrorCode::NoSuchRoute => HYPR_NO_SUCH_ROUTE,
            ErrorCode::TooLarge => HYPR_TOO_LARGE,
            ErrorCode::ModelNotFound => HYPR_MODEL_NOT_FOUND,
            ErrorCode::ModelBroken => HYPR_MODEL_BROKEN,
            ErrorCode::ModelTooLarge => HYPR_MODEL_TOO_LARGE,
            ErrorCode::ModelLacks => HYPR_MODEL_LACKS,
            ErrorCode::ContextExceeded => HYPR_CONTEXT_EXCEEDED,
            ErrorCode::JobNotFound => HYPR_JOB_NOT_FOUND,
            ErrorCode::Busy => HYPR_BUSY,
            ErrorCode::Stopping => HYPR_STOPPING,
            ErrorCode::Cancelled => HYPR_CANCELLED,
            ErrorCode::Denied => HYPR_DENIED,
            ErrorCode::Internal => HYPR_INTERNAL,
            ErrorCode::NoSuchMethod => HYPR_NO_SUCH_METHOD,
            ErrorCode::Unauthenticated => HYPR_UNAUTHENTICATED,
            ErrorCode::UnsupportedEncoding => HYPR_UNSUPPORTED_ENCODING,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_codes_keep_their_names() {
        for code in ErrorCode::ALL {
            assert_eq!(hypr_code::from(code).name().to_str().unwrap(), code.as_str());
        }
    }

    #[test]
    fn names_and_numbers_are_distinct() {
        for (at, code) in hypr_code::ALL.iter().enumerate() {
            for other in &hypr_code::ALL[at + 1..] {
                assert_ne!(code.name(), other.name());
                assert_ne!(*code as i32, *other as i32);
            }
        }
    }
}
