//! Reads a request's body as JSON. Invariant: never more than the limit is kept, and a client that is refused for its
//! size can still read why.
use crate::app::App;
use crate::errors::Failure;
use axum::body::{Body, BodyDataStream, Bytes};
use futures_core::Stream;
use hyprstream_protocol::{ErrorBody, ErrorCode};
use serde::de::DeserializeOwned;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

/// A body comes within so long, or not at all.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// What is too large is read to its end for so long and so far, since closing at once could cost the client our answer.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);
const DISCARD_MAX: u64 = 256 << 20;

/// Reads and parses.
pub async fn json<T: DeserializeOwned>(app: &App, body: Body) -> Result<T, Failure> {
    parse(&read(body, app.config().http.body_max).await?)
}

/// Parses; errors name line, column and field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Failure::new(
            ErrorCode::BadRequest,
            "the request has no body; it takes a JSON object",
        ));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = error.path().to_string();
        let error = error.into_inner();
        let has_place = error.is_data() && !matches!(field.as_str(), "." | "?" | "");
        match has_place {
            false => Failure::new(
                ErrorCode::BadRequest,
                format!("the request is not right: {error}"),
            ),
            true => Failure::bad_field(field.clone(), format!("`{field}` is not right: {error}")),
        }
    })?;
    reader.end().map_err(|error| {
        Failure::new(
            ErrorCode::BadRequest,
            format!("the request goes on after its JSON object: {error}"),
        )
    })?;
    Ok(value)
}

async fn read(body: Body, max: u64) -> Result<Vec<u8>, Failure> {
    let mut stream = body.into_data_stream();
    let reading = collect(&mut stream, max);
    match tokio::time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => {
            let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard(&mut stream)).await;
            let message =
                format!("the request's body is larger than {max} bytes ([http] body_max); send less at once");
            Err(Failure(ErrorBody::new(ErrorCode::TooLarge, message)))
        }
        Ok(Err(error)) => Err(Failure::new(
            ErrorCode::BadRequest,
            format!("the request's body broke off: {error}"),
        )),
        Err(_) => Err(Failure::new(
            ErrorCode::BadRequest,
            format!(
                "the request's body did not come within {} s",
                BODY_TIMEOUT.as_secs()
            ),
        )),
    }
}

async fn next(stream: &mut BodyDataStream) -> Option<Result<Bytes, axum::Error>> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

/// `None`: larger than `max`.
async fn collect(stream: &mut BodyDataStream, max: u64) -> Result<Option<Vec<u8>>, axum::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = next(stream).await {
        let chunk = chunk?;
        if (all.len() as u64).saturating_add(chunk.len() as u64) > max {
            return Ok(None);
        }
        all.extend_from_slice(&chunk);
    }
    Ok(Some(all))
}

async fn discard(stream: &mut BodyDataStream) {
    let mut seen = 0u64;
    while let Some(Ok(chunk)) = next(stream).await {
        seen = seen.saturating_add(chunk.len() as u64);
        if seen > DISCARD_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyprstream_protocol::GenerateRequest;

    fn fails(text: &[u8]) -> ErrorBody {
        parse::<GenerateRequest>(text).unwrap_err().0
    }

    #[test]
    fn errors_have_place_and_field() {
        let error = fails(b"{\"prompt\": \"x\",\n \"sampling\": {\"temprature\": 1}}");
        assert!(
            error.message.contains("temprature") && error.message.contains("line 2"),
            "{error:?}"
        );
        let error = fails(b"{\"prompt\": \"x\", \"sampling\": {\"top_p\": \"high\"}}");
        assert_eq!(error.field.as_deref(), Some("sampling.top_p"));
        assert!(fails(b"{}").message.contains("prompt"));
        assert!(fails(b"").message.contains("no body"));
        assert!(fails(b"{\"prompt\": \"x\"} {}").message.contains("goes on"));
        assert!(fails(b"\xff\xfe").message.contains("line 1"));
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert_eq!(fails(&deep).code, ErrorCode::BadRequest);
    }

    #[tokio::test]
    async fn too_much_is_refused() {
        assert_eq!(read(Body::from("12345"), 5).await.unwrap(), b"12345");
        assert_eq!(
            read(Body::from("123456"), 5).await.unwrap_err().0.code,
            ErrorCode::TooLarge
        );
    }
}
