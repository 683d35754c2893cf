//! Takes connections and speaks HTTP/1.1 on them. Invariant: connections, their heads and their idle time are bounded,
//! and a client that hangs up ends its request.
use super::patience::Patience;
use super::peer::Crowd;
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
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

const CONNECTIONS_MAX: usize = 512;
const HEAD_BYTES_MAX: usize = 64 << 10;
/// When no file descriptor is left, others must end first.
const PAUSE: Duration = Duration::from_millis(100);
/// Clients get so long to read the last words of a daemon that ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Serves until the app reaches [`Phase::Ending`] and its connections are through.
///
/// Where the socket is `lasting`, systemd's, nobody new is taken in while the daemon drains: who connects then waits for the
/// daemon that follows, instead of being sent away.
pub async fn serve(listener: Listener, lasting: bool, router: Router, app: Arc<App>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let crowd = Crowd::default();
    let last = if lasting { Phase::Draining } else { Phase::Ending };
    let mut closing = pin!(app.reached(last));
    loop {
        let accepting = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            accepted = accepting => accepted,
            () = &mut closing => break,
        };
        match accepted {
            Ok(stream) => {
                let (router, app, crowd) = (router.clone(), Arc::clone(&app), crowd.clone());
                tokio::spawn(async move {
                    connection(stream, router, app, crowd).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!("a connection could not be taken: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    app.reached(Phase::Ending).await;
    let all = CONNECTIONS_MAX.try_into().unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(LAST_WORDS, slots.acquire_many(all)).await;
}

async fn connection(stream: Stream, router: Router, app: Arc<App>, crowd: Crowd) {
    let (peer, counted) = match crowd.enter(&stream) {
        Ok(known) => known,
        Err(error) => return tracing::warn!("a client that the kernel does not name was sent away: {error}"),
    };
    let routes = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        routes.call(request)
    });
    // The engine ends the answer first, and then its end may still be read for a while.
    let config = app.config();
    let unread_max = config.limits.stall + LAST_WORDS;
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(config.http.header_timeout)
        .max_buf_size(HEAD_BYTES_MAX);
    let mut connection =
        pin!(http.serve_connection(TokioIo::new(Patience::new(stream, unread_max)), service));
    // Errors here are clients that hang up or talk nonsense; hyper has answered the latter with 400.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = app.reached(Phase::Ending) => {
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(LAST_WORDS, connection).await;
        }
    }
    drop(counted);
}
