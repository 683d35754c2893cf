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
    refuse(request, &Failure::new(ErrorCode::NoSuchRoute, message)).await
}

async fn no_such_method(request: Request) -> Response {
    let message = format!(
        "{} does not take {}; the header Allow has the methods that it takes",
        shown(&request),
        said(request.method().as_str())
    );
    refuse(request, &Failure::new(ErrorCode::NoSuchMethod, message)).await
}

/// Refuses a request whose body nobody read, so that a client that sends it first gets to the answer.
async fn refuse(request: Request, failure: &Failure) -> Response {
    let response = refusal(request.uri(), failure);
    let (parts, body) = request.into_parts();
    body::pass_over(&parts.headers, body).await;
    response
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const MANUAL: &str = include_str!("../../../man/hyprstreamd.8");

    /// The rows of the manual's table that follows this line, cell by cell.
    fn rows(after: &str) -> Vec<Vec<&'static str>> {
        let (_, table) = MANUAL.split_once(after).unwrap();
        let (table, _) = table.split_once("\n.El\n").unwrap();
        let rows = table.lines().filter_map(|line| line.strip_prefix(".It "));
        rows.map(|row| row.split(" Ta ").collect()).collect()
    }

    #[test]
    fn the_manual_has_every_error() {
        let told: BTreeSet<(String, String)> = rows("\nThe codes are:\n")
            .iter()
            .skip(1)
            .map(|row| (row[0].to_owned(), row[1].to_owned()))
            .collect();
        let there = ErrorCode::ALL.map(|code| (code.as_str().to_owned(), code.http_status().to_string()));
        assert_eq!(told, BTreeSet::from(there));
    }

    /// Methods and paths of a file's routes, as the manual writes them.
    fn routes(source: &str) -> BTreeSet<String> {
        let (_, table) = source.split_once("Router::new()").unwrap();
        let (table, _) = table.split_once("\n}\n").unwrap();
        let mut all = BTreeSet::new();
        for route in table.split(".route(").skip(1) {
            let path = route.split('"').nth(1).unwrap();
            let path = path.replace("{*name}", "NAME").replace("{id}", "ID");
            for method in ["get", "put", "post", "delete"] {
                if route.contains(&format!("{method}(")) {
                    all.insert(format!("{} {path}", method.to_uppercase()));
                }
            }
        }
        all
    }

    #[test]
    fn the_manual_has_every_route() {
        for (after, source) in [
            ("\n.Pa /hyprstream/v1 :\n", include_str!("native/mod.rs")),
            ("\n.Pa /v1 :\n", include_str!("openai/mod.rs")),
        ] {
            let told: BTreeSet<String> = rows(after).iter().map(|row| row[..2].join(" ")).collect();
            assert_eq!(told, routes(source));
            assert!(told.len() > 3, "{told:?}");
        }
    }

    #[test]
    fn the_manual_tells_the_limits() {
        for line in [
            format!(
                "{} connections at each door, and {} of one user",
                accept::CONNECTIONS_MAX,
                peer::PER_USER_MAX
            ),
            format!(
                "{} KiB of request line and headers, and {} headers",
                accept::HEAD_BYTES_MAX >> 10,
                accept::HEADERS_MAX
            ),
            format!("{} s until a body is there", body::BODY_TIMEOUT.as_secs()),
            format!(
                "{} values in a body, {} of them objects or lists",
                body::VALUES_MAX,
                body::CONTAINERS_MAX
            ),
        ] {
            assert!(MANUAL.contains(&line), "{line}");
        }
    }

    #[test]
    fn the_manual_names_the_instruction_sets() {
        let (_, named) = MANUAL.split_once(".It Ev HYPRSTREAM_ISA\n").unwrap();
        let (named, _) = named.split_once("\n.El\n").unwrap();
        let words: BTreeSet<&str> = named.split_whitespace().collect();
        for isa in hyprstream_kernels::Isa::ALL {
            assert!(words.contains(isa.name()), "{}", isa.name());
        }
    }
}
