//! Reads a request's body as JSON. Invariant: never more than the limit is kept, a client that is refused for its size can
//! still read why, and large bodies are parsed beside the threads that answer everybody.
use super::peer::Peer;
use super::room::{Held, Room, SMALL_BYTES};
use crate::app::App;
use crate::errors::Failure;
use crate::said::said;
use axum::body::{Body, BodyDataStream, Bytes, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::EXPECT;
use futures_core::Stream;
use hyprstream_protocol::ErrorCode;
use serde::de::DeserializeOwned;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::Semaphore;

/// A body comes within so long, or not at all.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// What is too large is read to its end for so long and so far, since closing at once could cost the client our answer.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);
const DISCARD_MAX: u64 = 256 << 20;

/// Small bodies are parsed at once; as many larger ones as this at the same time.
const LARGE_AT_ONCE: usize = 2;
/// Values, and objects and lists among them, that a body may have. Each costs far more memory than its text.
pub const VALUES_MAX: usize = 1 << 18;
pub const CONTAINERS_MAX: usize = 1 << 14;

static LARGE: Semaphore = Semaphore::const_new(LARGE_AT_ONCE);

/// Reads and parses.
pub async fn json<T: DeserializeOwned + Send + 'static>(
    app: &App,
    peer: Peer,
    body: Body,
) -> Result<T, Failure> {
    let (bytes, held) = read(body, app.config().http.body_max, &app.room, peer.uid).await?;
    if held.is_none() {
        return parse(&bytes);
    }
    let _one_of_few = LARGE.acquire().await;
    let parsing = tokio::task::spawn_blocking(move || {
        let parsed = parse(&bytes);
        drop((bytes, held));
        parsed
    });
    parsing
        .await
        .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))?
}

/// Refuses what would become huge in memory. Counts at least what a parser would find before its first complaint.
fn check_count(bytes: &[u8]) -> Result<(), Failure> {
    let (mut values, mut containers) = (1, 0);
    let (mut quoted, mut escaped) = (false, false);
    for &byte in bytes {
        match (quoted, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            (false, b'{' | b'[') => containers += 1,
            (false, b',') => values += 1,
            _ => {}
        }
    }
    if values + containers <= VALUES_MAX && containers <= CONTAINERS_MAX {
        return Ok(());
    }
    Err(Failure::new(
        ErrorCode::TooLarge,
        format!(
            "the request has too many values; it may have {VALUES_MAX}, {CONTAINERS_MAX} of them objects or lists"
        ),
    ))
}

/// Parses; errors name line, column and field.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Failure::new(
            ErrorCode::BadRequest,
            "the request has no body; it takes a JSON object",
        ));
    }
    check_count(bytes)?;
    let begins_with = |sign: &[u8]| bytes.trim_ascii_start().starts_with(sign);
    let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
    // A list would be taken for the fields in their order.
    if begins_with(b"[") || (!begins_with(b"{") && is_json()) {
        return Err(Failure::new(
            ErrorCode::BadRequest,
            "the request is no JSON object",
        ));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let field = said(&error.path().to_string());
        let error = error.into_inner();
        let is_data = error.is_data();
        let error = said(&error.to_string());
        let has_place = is_data && !matches!(field.as_str(), "." | "?" | "");
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

/// Why a body is not there.
enum Lost {
    TooLarge,
    Broken(axum::Error),
    Refused(Failure),
}

/// The body, and its room if it is large.
type Received = (Vec<u8>, Option<Held>);

async fn read(body: Body, max: u64, room: &Room, uid: u32) -> Result<Received, Failure> {
    // Said beforehand, where the client says it.
    let hint = body.size_hint();
    let mut stream = body.into_data_stream();
    let reading = async {
        match hint.lower() > max {
            true => Err(Lost::TooLarge),
            false => {
                let bytes = hint.exact().unwrap_or(max);
                let take = || room.take(uid, bytes);
                collect(&mut stream, max, take).await
            }
        }
    };
    let failure = match tokio::time::timeout(BODY_TIMEOUT, reading).await {
        Ok(Ok(received)) => return Ok(received),
        Ok(Err(Lost::Broken(error))) => {
            let message = format!("the request's body broke off: {error}");
            return Err(Failure::new(ErrorCode::BadRequest, message));
        }
        Err(_) => {
            let seconds = BODY_TIMEOUT.as_secs();
            let message = format!("the request's body did not come within {seconds} s");
            return Err(Failure::new(ErrorCode::BadRequest, message));
        }
        Ok(Err(Lost::TooLarge)) => {
            let message =
                format!("the request's body is larger than {max} bytes ([http] body_max); send less at once");
            Failure::new(ErrorCode::TooLarge, message)
        }
        Ok(Err(Lost::Refused(failure))) => failure,
    };
    discard(&mut stream).await;
    Err(failure)
}

async fn next(stream: &mut BodyDataStream) -> Option<Result<Bytes, axum::Error>> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

/// Asks for room once the body is large.
async fn collect<T>(stream: &mut BodyDataStream, max: u64, take: impl Fn() -> T) -> Result<Received, Lost>
where
    T: Future<Output = Result<Held, Failure>>,
{
    let (mut all, mut held) = (Vec::new(), None);
    while let Some(chunk) = next(stream).await {
        let chunk = chunk.map_err(Lost::Broken)?;
        let len = all.len().saturating_add(chunk.len());
        if len as u64 > max {
            return Err(Lost::TooLarge);
        }
        if len > SMALL_BYTES && held.is_none() {
            held = Some(take().await.map_err(Lost::Refused)?);
        }
        all.extend_from_slice(&chunk);
    }
    Ok((all, held))
}

/// Reads what nobody wants, within bounds, so that its sender comes to read the answer. Not where the sender waits for a word
/// before it sends anything.
pub async fn pass_over(headers: &HeaderMap, body: Body) {
    if !headers.contains_key(EXPECT) {
        discard(&mut body.into_data_stream()).await;
    }
}

async fn discard(stream: &mut BodyDataStream) {
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, drain(stream)).await;
}

async fn drain(stream: &mut BodyDataStream) {
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
    use hyprstream_protocol::{ErrorBody, GenerateRequest};

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
        for other in [&b" null"[..], b"5", b"\"x\"", b"[5]", b"[5"] {
            assert_eq!(fails(other).message, "the request is no JSON object");
        }
        assert!(fails(b"{\"prompt\": \"x\"} {}").message.contains("goes on"));
        assert!(fails(b"\xff\xfe").message.contains("line 1"));
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert_eq!(fails(&deep).code, ErrorCode::TooLarge);
        let deep = [b"[".repeat(1000), b"]".repeat(1000)].concat();
        assert_eq!(fails(&deep).code, ErrorCode::BadRequest);
        let long = fails(format!("{{\"prompt\": \"x\", \"{}\": 1}}", "ä".repeat(200_000)).as_bytes());
        assert!(
            long.message.len() < 2000 && long.message.contains("ää…"),
            "{long:?}"
        );
        assert!(long.field.is_none_or(|field| field.len() < 1000));
    }

    #[test]
    fn values_are_counted_and_texts_are_not() {
        let many = |one: &str, count: usize| format!("{{\"prompt\": [{}1]}}", one.repeat(count)).into_bytes();
        let code = |body: &[u8]| fails(body).code;
        assert_eq!(code(&many("{},", CONTAINERS_MAX)), ErrorCode::TooLarge);
        assert_eq!(code(&many("1,", VALUES_MAX)), ErrorCode::TooLarge);
        parse::<GenerateRequest>(&many("1,", VALUES_MAX / 2)).unwrap();
        let text = format!("{{\"prompt\": \"{}\"}}", r#"{[,\\\",["#.repeat(VALUES_MAX));
        parse::<GenerateRequest>(text.as_bytes()).unwrap();
    }

    #[tokio::test]
    async fn too_much_is_refused() {
        let room = Room::default();
        let read = async |text: &'static str| read(Body::from(text), 5, &room, 7).await;
        assert_eq!(read("12345").await.ok().unwrap().0, b"12345");
        assert_eq!(read("123456").await.err().unwrap().0.code, ErrorCode::TooLarge);
    }

    #[tokio::test]
    async fn large_bodies_need_room_and_small_ones_do_not() {
        let room = Room::new(Duration::from_millis(30));
        let full = room.take(7, u64::MAX).await;
        let read = async |bytes: usize| {
            let read = read(Body::from(vec![b' '; bytes]), 1 << 20, &room, 7).await;
            read.map(|(bytes, held)| (bytes.len(), held.is_some()))
        };
        assert_eq!(read(SMALL_BYTES).await, Ok((SMALL_BYTES, false)));
        assert_eq!(read(SMALL_BYTES + 1).await.unwrap_err().0.code, ErrorCode::Busy);
        drop(full);
        assert_eq!(read(SMALL_BYTES + 1).await, Ok((SMALL_BYTES + 1, true)));
    }
}
