//! Calls the daemon's routes. Invariant: whatever the other end sends, memory stays bounded and each failure has a name.
use crate::stream::Events;
use crate::transport::{NoNames, OneStream};
use hyprstream_protocol::{API_PREFIX, ErrorBody, ErrorReply};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use ureq::http::{Method, Request, Response};
use ureq::{Agent, Body, BodyReader, SendBody};

/// Longest wait for a reply that needs no computing.
const QUICK: Duration = Duration::from_secs(30);
/// Largest reply to a question about state.
const REPLY_BYTES_MAX: u64 = 16 << 20;
/// Largest reply that has a line for each token of a text.
const TOKENS_BYTES_MAX: u64 = 512 << 20;
/// Largest error reply.
const ERROR_BYTES_MAX: u64 = 1 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The daemon answered with an error.
    #[error("{0}")]
    Daemon(ErrorBody),
    /// The connection ended before the answer did.
    #[error("the daemon closed the connection before the answer was complete")]
    Closed,
    /// Nothing came for too long.
    #[error("the daemon did not answer within {} seconds", QUICK.as_secs())]
    Silent,
    /// A line or reply is longer than anything the daemon sends.
    #[error("the answer is longer than {limit} bytes; is this socket hyprstreamd's?")]
    TooLong {
        /// The limit that it broke.
        limit: u64,
    },
    /// What came is not what hyprstreamd sends.
    #[error("the answer makes no sense ({why}); is this socket hyprstreamd's, and as new as this client?")]
    Garbage {
        /// What is wrong with it.
        why: String,
    },
    /// The socket failed in another way.
    #[error("the connection to the daemon failed: {0}")]
    Io(io::Error),
    /// The request could not be written as JSON.
    #[error("the request cannot be written: {0}")]
    Request(serde_json::Error),
}

impl From<io::Error> for CallError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
                CallError::Closed
            }
            ErrorKind::TimedOut => CallError::Silent,
            // ureq wraps its own errors to pass them through `Read`.
            _ => match error.downcast::<ureq::Error>() {
                Ok(inner) => inner.into(),
                Err(error) => CallError::Io(error),
            },
        }
    }
}

impl From<ureq::Error> for CallError {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::Io(error) => error.into(),
            ureq::Error::Timeout(_) => CallError::Silent,
            ureq::Error::BodyExceedsLimit(limit) => CallError::TooLong { limit },
            ureq::Error::LargeResponseHeader(_, limit) => CallError::TooLong {
                limit: u64::try_from(limit).unwrap_or(u64::MAX),
            },
            other => CallError::Garbage {
                why: other.to_string(),
            },
        }
    }
}

/// A whole reply: the text as it came, for `--json`, and as a value.
#[derive(Debug)]
pub struct Reply(String);

impl Reply {
    /// The reply as it came.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The reply as a value.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_str(&self.0).map_err(|error| CallError::Garbage {
            why: error.to_string(),
        })
    }
}

/// One connection to the daemon, good for one call.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
}

impl Client {
    /// A client on a connected socket.
    pub fn new(stream: UnixStream) -> Self {
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(0)
            .user_agent(concat!("hyp/", env!("CARGO_PKG_VERSION")))
            .build();
        Client {
            agent: Agent::with_parts(config, OneStream::new(stream), NoNames),
        }
    }

    /// What [`Agent::shutdown`] needs to end this client's call from another thread.
    pub fn agent(&self) -> Agent {
        self.agent.clone()
    }

    /// `GET path`.
    pub fn get(self, path: &str) -> Result<Reply, CallError> {
        self.quick(Method::GET, path, None)
    }

    /// `DELETE path`.
    pub fn delete(self, path: &str) -> Result<Reply, CallError> {
        self.quick(Method::DELETE, path, None)
    }

    /// `POST path`, where the reply needs no computing.
    pub fn post(self, path: &str, body: &impl Serialize) -> Result<Reply, CallError> {
        self.quick(Method::POST, path, Some(encode(body)?))
    }

    /// `POST path`, where the reply may take any time and has something for each token.
    pub fn compute(self, path: &str, body: &impl Serialize) -> Result<Reply, CallError> {
        let response = self.send(Method::POST, path, Some(encode(body)?), None)?;
        read_reply(response, TOKENS_BYTES_MAX)
    }

    /// `POST path`, where the answer is a stream of events.
    pub fn events(self, path: &str, body: &impl Serialize) -> Result<Events<BodyReader<'static>>, CallError> {
        let response = self.send(Method::POST, path, Some(encode(body)?), None)?;
        Ok(Events::new(response.into_body().into_reader()))
    }

    /// `PUT path` of a file of so many bytes, which may take any time.
    pub fn upload(self, path: &str, file: impl Read + 'static, bytes: u64) -> Result<Reply, CallError> {
        let request = Request::builder()
            .method(Method::PUT)
            .uri(format!("http://localhost{API_PREFIX}{path}"))
            .header("content-type", "application/octet-stream")
            .header("content-length", bytes)
            // A daemon that refuses says so before anything is sent.
            .header("expect", "100-continue")
            .body(SendBody::from_owned_reader(file));
        let request = request.map_err(|error| CallError::Garbage {
            why: error.to_string(),
        })?;
        let response = self.agent.run(request)?;
        match response.status().is_success() {
            true => read_reply(response, REPLY_BYTES_MAX),
            false => Err(read_error(response)),
        }
    }

    fn quick(self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Reply, CallError> {
        let response = self.send(method, path, body, Some(QUICK))?;
        read_reply(response, REPLY_BYTES_MAX)
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
        limit: Option<Duration>,
    ) -> Result<Response<Body>, CallError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://localhost{API_PREFIX}{path}"));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let built = |error: ureq::http::Error| CallError::Garbage {
            why: error.to_string(),
        };
        let response = match body {
            Some(body) => {
                let request = request.body(body).map_err(built)?;
                self.agent.run(
                    self.agent
                        .configure_request(request)
                        .timeout_global(limit)
                        .build(),
                )?
            }
            None => {
                let request = request.body(()).map_err(built)?;
                self.agent.run(
                    self.agent
                        .configure_request(request)
                        .timeout_global(limit)
                        .build(),
                )?
            }
        };
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(read_error(response))
        }
    }
}

fn encode(body: &impl Serialize) -> Result<Vec<u8>, CallError> {
    serde_json::to_vec(body).map_err(CallError::Request)
}

fn read_reply(response: Response<Body>, limit: u64) -> Result<Reply, CallError> {
    let mut bytes = Vec::new();
    response
        .into_body()
        .into_with_config()
        .limit(limit)
        .reader()
        .read_to_end(&mut bytes)?;
    String::from_utf8(bytes)
        .map(|text| Reply(text.trim_end().to_owned()))
        .map_err(|_| CallError::Garbage {
            why: "it is not UTF-8".to_owned(),
        })
}

fn read_error(response: Response<Body>) -> CallError {
    let status = response.status();
    let reply = match read_reply(response, ERROR_BYTES_MAX) {
        Ok(reply) => reply,
        Err(error) => return error,
    };
    match reply.parse::<ErrorReply>() {
        Ok(reply) => CallError::Daemon(reply.error),
        Err(_) => CallError::Garbage {
            why: format!("status {status} without an error that this client knows"),
        },
    }
}

/// A name as one segment of a path: all but unreserved characters escaped, `/` too.
pub fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_one_segment() {
        assert_eq!(segment("qwen/Qwen3-0.6B"), "qwen%2FQwen3-0.6B");
        assert_eq!(segment("a b?#%ü"), "a%20b%3F%23%25%C3%BC");
    }
}
