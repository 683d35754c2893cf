//! The doors: a Unix socket, and TCP where it is configured, HTTP on both, and the routes. Invariant: whatever comes in, the
//! answer is JSON that says what happened.
mod accept;
mod body;
mod guest;
mod lobby;
mod native;
mod openai;
mod patience;
mod peer;
mod reply;
mod room;
mod socket;
mod stream;
mod tcp;
mod tokens;
mod turn_away;

pub use accept::{Socket, serve};
pub use guest::Guests;
pub use native::in_words;
pub use room::Room;
pub use socket::{BindError, Door};
pub use tcp::{TcpDoor, TcpError};
pub use tokens::Tokens;
pub use turn_away::turn_away;

use crate::app::App;
use crate::errors::Failure;
use crate::said::said;
use axum::Router;
use axum::extract::Request;
use axum::http::Uri;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use hyprstream_protocol::ErrorCode;
use std::sync::Arc;

/// All routes.
pub fn router(app: &Arc<App>) -> Router {
    Router::new()
        .nest(hyprstream_protocol::API_PREFIX, native::routes())
        .nest("/v1", openai::routes())
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(Arc::clone(app), reply::around))
        .with_state(Arc::clone(app))
}

async fn no_such_route(request: Request) -> Response {
    let message = format!(
        "there is nothing at {}; the routes start with /hyprstream/v1/ or /v1/",
        shown(&request)
    );
    refusal(request.uri(), &Failure::new(ErrorCode::NoSuchRoute, message))
}

async fn no_such_method(request: Request) -> Response {
    let message = format!(
        "{} does not take {}; the header Allow has the methods that it takes",
        shown(&request),
        request.method()
    );
    refusal(request.uri(), &Failure::new(ErrorCode::NoSuchMethod, message))
}

fn shown(request: &Request) -> String {
    said(request.uri().path())
}

/// An error in the form that the clients of this path read.
fn refusal(uri: &Uri, failure: &Failure) -> Response {
    if uri.path().starts_with("/v1/") {
        openai::error(failure)
    } else {
        reply::error(failure)
    }
}
