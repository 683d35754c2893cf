//! Server-sent events, the form in which OpenAI's API streams. Invariant: every event is one line of JSON; the last of a
//! whole answer is `[DONE]`.
use super::error_json;
use crate::errors::Failure;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

/// One event.
pub fn event(value: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(value.to_string().as_bytes());
    out.extend_from_slice(b"\n\n");
}

/// The end of a whole answer.
pub fn done(out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: [DONE]\n\n");
}

/// The end of an answer that failed on the way.
pub fn failed(failure: &Failure, out: &mut Vec<u8>) {
    event(&error_json(failure), out);
}

/// The answer that carries them.
pub fn response(body: Body) -> Response {
    (
        [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-cache")],
        body,
    )
        .into_response()
}
