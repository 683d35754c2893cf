//! Routes that change the models folder: install and delete. Invariant: a body goes to the disk as it comes, and one that
//! breaks off leaves nothing there.
use super::work::allowed;
use crate::app::{App, Phase};
use crate::authority::Action;
use crate::errors::Failure;
use crate::install::{self, Held, Incoming, listed};
use crate::ipc::body::pass_over;
use crate::ipc::peer::Peer;
use crate::ipc::reply::{self, Asker, RequestId, Segment};
use crate::order;
use axum::Extension;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use axum::response::Response;
use futures_core::Stream;
use hyprstream_protocol::{ErrorCode, FileReply};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Pieces are gathered before they are written, up to about so many bytes.
const PIECE_BYTES: usize = 1 << 20;
/// A body goes on within so long, or not at all.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// `PUT /models/NAME`: the body is the file.
pub async fn install(
    State(app): State<Arc<App>>,
    (Extension(peer), Extension(id)): Asker,
    name: Segment,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let begun = begin(&app, peer, id, name, &headers).await;
    let (incoming, held) = match begun {
        Ok(begun) => begun,
        Err(failure) => {
            // Who sends all of the file first would not see why it is refused.
            pass_over(&headers, body).await;
            return Err(failure);
        }
    };
    let ending = held.ending();
    let (model, bytes) = tokio::select! {
        copied = copy(incoming, body.into_data_stream()) => copied?,
        () = ending.wait() => return Err(Failure::cancelled()),
        () = app.reached(Phase::Ending) => return Err(Failure::stopping()),
    };
    listed(&app, &model, true).await;
    Ok(reply::with_id(reply::ok(&FileReply { model, bytes }), held.id()))
}

/// What can be refused before the file comes.
async fn begin(
    app: &Arc<App>,
    peer: Peer,
    id: RequestId,
    name: Segment,
    headers: &HeaderMap,
) -> Result<(Incoming, Held), Failure> {
    let name = reply::segment(name)?;
    allowed(app, peer, Action::Install).await?;
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok());
    let bytes = length.and_then(|length| length.parse().ok());
    let asker = order::Asker {
        uid: peer.uid,
        id: id.0,
    };
    Incoming::begin(app, &asker, &name, bytes)
}

async fn copy(mut incoming: Incoming, mut body: BodyDataStream) -> Result<(String, u64), Failure> {
    loop {
        let (pieces, last) = gather(&mut body).await?;
        let writing = tokio::task::spawn_blocking(move || {
            for piece in &pieces {
                incoming.write(piece)?;
            }
            Ok::<_, Failure>(incoming)
        });
        incoming = writing.await.map_err(|_| broke_off())??;
        if last {
            let finishing = tokio::task::spawn_blocking(move || incoming.finish());
            return finishing.await.map_err(|_| broke_off())?;
        }
    }
}

/// The next pieces of a body, and whether they are the last.
async fn gather(body: &mut BodyDataStream) -> Result<(Vec<Bytes>, bool), Failure> {
    let (mut pieces, mut held) = (Vec::new(), 0usize);
    while held < PIECE_BYTES {
        let next = poll_fn(|context| Pin::new(&mut *body).poll_next(context));
        match tokio::time::timeout(SILENCE_MAX, next).await {
            Ok(Some(Ok(piece))) => {
                held = held.saturating_add(piece.len());
                pieces.push(piece);
            }
            Ok(None) => return Ok((pieces, true)),
            Ok(Some(Err(_))) | Err(_) => {
                let message = "the file did not come whole, so it was not installed; send it again";
                return Err(Failure::new(ErrorCode::BadRequest, message));
            }
        }
    }
    Ok((pieces, false))
}

fn broke_off() -> Failure {
    Failure::fault("installing a model broke off")
}

/// `DELETE /models/NAME`.
pub async fn delete(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    name: Segment,
) -> Result<Response, Failure> {
    let name = reply::segment(name)?;
    allowed(&app, peer, Action::Install).await?;
    app.admit()?;
    let entry = install::named(&app, &name)?;
    let bytes = install::delete(&app, &entry).await?;
    let model = entry.name.clone();
    Ok(reply::ok(&FileReply { model, bytes }))
}
