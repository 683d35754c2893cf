//! Routes that cut text into tokens and put it together again. Invariant: they load the model, since its tokenizer is
//! part of it, and do not touch the engine.
use crate::app::App;
use crate::errors::Failure;
use crate::ipc::peer::Peer;
use crate::ipc::{body, reply};
use crate::models::Lease;
use crate::prompt::{tokenizer, turn};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyprstream_protocol::{DetokenizeReply, DetokenizeRequest, TokenPiece, TokenizeReply, TokenizeRequest};
use std::sync::Arc;

/// `POST /tokenize`.
pub async fn tokenize(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Result<Response, Failure> {
    let request: TokenizeRequest = body::json(&app, peer, body).await?;
    let lease = lease(&app, request.model.as_deref()).await?;
    let _turn = turn(request.text.len()).await;
    on_a_thread(move || {
        let model = lease.model();
        let ids = tokenizer(model)?.encode(&request.text, request.add_special, request.parse_special)?;
        let tokens = ids
            .into_iter()
            .map(|token| TokenPiece {
                token,
                text: model.piece(token),
            })
            .collect();
        Ok(reply::ok(&TokenizeReply {
            model: model.name().to_owned(),
            tokens,
        }))
    })
    .await
}

/// `POST /detokenize`.
pub async fn detokenize(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Result<Response, Failure> {
    let request: DetokenizeRequest = body::json(&app, peer, body).await?;
    let lease = lease(&app, request.model.as_deref()).await?;
    on_a_thread(move || {
        let model = lease.model();
        let tokenizer = tokenizer(model)?;
        if let Some(token) = request
            .tokens
            .iter()
            .find(|token| tokenizer.piece(**token).is_none())
        {
            let message = format!("token {token} is not in the vocabulary of {}", model.name());
            return Err(Failure::bad_field("tokens", message));
        }
        let text = tokenizer.decode(&request.tokens, false);
        Ok(reply::ok(&DetokenizeReply {
            model: model.name().to_owned(),
            text,
        }))
    })
    .await
}

async fn lease(app: &App, model: Option<&str>) -> Result<Lease, Failure> {
    app.admit()?;
    Ok(app.models.acquire(&app.entry(model)?, |_, _| {}).await?)
}

async fn on_a_thread(
    work: impl FnOnce() -> Result<Response, Failure> + Send + 'static,
) -> Result<Response, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Failure::fault("the tokenizer broke off")))
}
