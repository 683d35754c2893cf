//! Takes connections and speaks HTTP/1.1 on them. Invariant: connections, their heads and their idle time are bounded,
//! and a client that hangs up ends its request.
use super::guest::{Guest, Guests};
use super::patience::Patience;
use super::peer::{Counted, Crowd, Peer};
use crate::app::{App, Phase};
use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use interprocess::local_socket::tokio::{Listener, Stream};
use interprocess::local_socket::traits::tokio::Listener as _;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Of each door.
pub const CONNECTIONS_MAX: usize = 512;
/// Request line and headers; a byte more is refused with 431.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
pub const HEADERS_MAX: usize = 100;
/// When no file descriptor is left, others must end first.
const PAUSE: Duration = Duration::from_millis(100);
/// Clients get so long to read the last words of a daemon that ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Who asks on a connection.
#[derive(Clone)]
pub enum Caller {
    /// Whom the kernel names.
    Known(Peer),
    /// Whom each request's token names.
    Guest(Arc<Guest>),
}

/// What is held while a connection is open.
struct Visit {
    caller: Caller,
    _counted: Option<Counted>,
}

/// Where connections come from.
pub trait Doorway: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The next one.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
    /// Who it is; `None` sends it away.
    fn greet(&self, stream: &Self::Stream) -> Option<(Caller, Option<Counted>)>;
}

/// The Unix socket.
pub struct Socket {
    listener: Listener,
    crowd: Crowd,
}

impl Socket {
    /// With nobody on it.
    pub fn new(listener: Listener) -> Socket {
        Socket {
            listener,
            crowd: Crowd::default(),
        }
    }
}

impl Doorway for Socket {
    type Stream = Stream;

    async fn next(&self) -> io::Result<Stream> {
        self.listener.accept().await
    }

    fn greet(&self, stream: &Stream) -> Option<(Caller, Option<Counted>)> {
        match self.crowd.enter(stream) {
            Ok(known) => known.map(|(peer, counted)| (Caller::Known(peer), Some(counted))),
            Err(error) => {
                tracing::warn!("a client that the kernel does not name was sent away: {error}");
                None
            }
        }
    }
}

impl Doorway for (TcpListener, Guests) {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        let (stream, _) = self.0.accept().await?;
        // Tokens are short messages, each of which is waited for.
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn greet(&self, _: &TcpStream) -> Option<(Caller, Option<Counted>)> {
        Some((Caller::Guest(Arc::new(self.1.enter())), None))
    }
}

/// Serves until the app reaches [`Phase::Ending`] and its connections are through.
///
/// Where the socket is `lasting`, systemd's, nobody new is taken in while the daemon drains: who connects then waits for the
/// daemon that follows, instead of being sent away.
pub async fn serve(doorway: impl Doorway, lasting: bool, router: Router, app: Arc<App>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let last = if lasting { Phase::Draining } else { Phase::Ending };
    let mut closing = pin!(app.reached(last));
    loop {
        let accepting = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, doorway.next().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepting => accepted,
            () = &mut closing => break,
        };
        match accepted {
            Ok(stream) => {
                let Some((caller, _counted)) = doorway.greet(&stream) else {
                    continue;
                };
                let visit = Visit { caller, _counted };
                let (router, app) = (router.clone(), Arc::clone(&app));
                tokio::spawn(async move {
                    connection(stream, router, app, visit).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!("a connection could not be taken: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(doorway);
    app.reached(Phase::Ending).await;
    let all = CONNECTIONS_MAX.try_into().unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(LAST_WORDS, slots.acquire_many(all)).await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    app: Arc<App>,
    visit: Visit,
) {
    let routes = TowerToHyperService::new(router);
    let caller = visit.caller.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        routes.call(request)
    });
    // The engine ends the answer first, and then its end may still be read for a while.
    let config = app.config();
    let unread_max = config.limits.stall + LAST_WORDS;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.http.header_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX);
    let mut connection =
        pin!(http.serve_connection(TokioIo::new(Patience::new(stream, unread_max)), service));
    let must_go = async {
        match &visit.caller {
            Caller::Guest(guest) => guest.must_go().await,
            Caller::Known(_) => std::future::pending().await,
        }
    };
    // Errors here are clients that hang up or talk nonsense; hyper has answered the latter with 400.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = must_go => {}
        () = app.reached(Phase::Ending) => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(LAST_WORDS, connection).await;
        }
    }
}
