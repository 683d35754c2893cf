//! Answers that are not streams, and what surrounds every answer. Invariant: every answer carries the request's id, and
//! every error the same JSON.
use super::accept::Caller;
use super::peer::Peer;
use super::{refusal, refuse};
use crate::app::App;
use crate::errors::Failure;
use crate::jobs::new_id;
use crate::said::said;
use axum::Extension;
use axum::body::{Body, HttpBody};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, TRANSFER_ENCODING,
    WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyprstream_protocol::{ErrorBody, ErrorCode, ErrorReply, REQUEST_ID_HEADER};
use serde::Serialize;
use std::sync::Arc;

/// A name or an id in a path, which may not be UTF-8 once its percent signs are read.
pub type Segment = Result<Path<String>, PathRejection>;

/// The name or id.
pub fn segment(segment: Segment) -> Result<String, Failure> {
    let Path(text) = segment.map_err(|_| Failure::new(ErrorCode::BadRequest, "the path is not UTF-8"))?;
    Ok(text)
}

/// The id of the request at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub String);

const ID_CHARS_MAX: usize = 64;

/// Gives the request its id, counts it, and puts the id on the answer.
pub async fn around(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let _active = app.activity.begin();
    let id = wanted_id(request.headers()).unwrap_or_else(new_id);
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = match identify(&app, &request) {
        Ok(peer) => match check_encoding(&request) {
            Ok(()) => {
                request.extensions_mut().insert(peer);
                next.run(request).await
            }
            Err(failure) => {
                let mut response = refuse(request, &failure).await;
                let plain = HeaderValue::from_static("identity");
                response.headers_mut().insert(ACCEPT_ENCODING, plain);
                response
            }
        },
        Err(failure) => {
            let mut response = refusal(request.uri(), &failure);
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
            if failure.0.code == ErrorCode::Unauthenticated {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            response
        }
    };
    // Where the id was taken, the handler has put another one there.
    if !response.headers().contains_key(REQUEST_ID_HEADER)
        && let Ok(value) = HeaderValue::from_str(&id)
    {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}

/// Who asks; refuses those who may not be here, or are here too often.
fn identify(app: &App, request: &Request) -> Result<Peer, Failure> {
    let peer = match request.extensions().get::<Caller>() {
        Some(Caller::Known(peer)) => *peer,
        Some(Caller::Guest(guest)) => guest.identify(app, request.uri(), request.headers())?,
        None => return Err(Failure::fault("a request came through no door")),
    };
    if peer.crowded {
        let message = "you hold more connections than one user may; close some and try again";
        return Err(Failure(
            ErrorBody::new(ErrorCode::Busy, message).retry_after_ms(1_000),
        ));
    }
    Ok(peer)
}

/// Refuses a body that would have to be unpacked: its size says nothing about what comes out of it.
fn check_encoding(request: &Request) -> Result<(), Failure> {
    let codings = |name, plain: &'static [u8]| {
        let lines = request.headers().get_all(name).iter();
        lines
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(move |coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(plain))
    };
    let mut odd = codings(CONTENT_ENCODING, b"identity").chain(codings(TRANSFER_ENCODING, b"chunked"));
    match odd.next() {
        Some(coding) if !request.body().is_end_stream() => {
            let coding = said(&String::from_utf8_lossy(coding));
            let message = format!("the body is encoded as {coding}; send it plain");
            Err(Failure::new(ErrorCode::UnsupportedEncoding, message))
        }
        _ => Ok(()),
    }
}

/// The client's own id, where it is fit for a journal field and a path.
fn wanted_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID_HEADER)?.to_str().ok()?;
    let sane = !id.is_empty()
        && id.len() <= ID_CHARS_MAX
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    sane.then(|| id.to_owned())
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => (status, [(CONTENT_TYPE, "application/json")], Body::from(bytes)).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A good JSON answer.
pub fn ok(value: &impl Serialize) -> Response {
    json(StatusCode::OK, value)
}

/// An error in the native form.
pub fn error(failure: &Failure) -> Response {
    let mut response = json(
        status(failure),
        &ErrorReply {
            error: failure.0.clone(),
        },
    );
    retry_after(&mut response, failure);
    response
}

/// The HTTP status of an error.
pub fn status(failure: &Failure) -> StatusCode {
    StatusCode::from_u16(failure.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Puts the retry hint where HTTP clients look for it.
pub fn retry_after(response: &mut Response, failure: &Failure) {
    if let Some(retry_ms) = failure.0.retry_ms {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(retry_ms.div_ceil(1000).max(1)));
    }
}

/// Puts the id under which the job runs on its answer.
pub fn with_id(mut response: Response, id: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        error(&self)
    }
}

/// Who asks, and under which id.
pub type Asker = (Extension<Peer>, Extension<RequestId>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sane_ids_are_taken() {
        let with = |id: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID_HEADER, HeaderValue::from_str(id).unwrap());
            wanted_id(&headers)
        };
        assert_eq!(with("a-1_b.2").as_deref(), Some("a-1_b.2"));
        for bad in ["", "a b", "a/b", "é", &"x".repeat(65)] {
            assert_eq!(with(bad), None, "{bad}");
        }
        assert_ne!(new_id(), new_id());
    }

    #[test]
    fn a_retry_hint_is_a_header_too() {
        let failure = Failure(ErrorBody::new(ErrorCode::Busy, "full").retry_after_ms(1_200));
        let response = error(&failure);
        assert_eq!(
            (
                response.status().as_u16(),
                response.headers()[RETRY_AFTER].as_bytes()
            ),
            (429, &b"2"[..])
        );
    }
}
