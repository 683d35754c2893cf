//! Routes that make the engine work: generate, chat, score, load, unload. Invariant: what a route takes is one order,
//! the same that the other doors make.
use crate::answer::{Answer, Order, begin};
use crate::app::App;
use crate::authority::Action;
use crate::errors::Failure;
use crate::ipc::body;
use crate::ipc::peer::Peer;
use crate::ipc::reply::{self, Asker};
use crate::ipc::stream::{Render, Streaming};
use crate::order;
use crate::score::score as score_prompt;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyprstream_protocol::{
    ChatRequest, Event, GenerateRequest, LoadRequest, ModelReply, ScoreRequest, UnloadRequest,
};
use std::sync::Arc;

const TOP_MAX: u8 = 20;

/// `POST /generate`.
pub async fn generate(State(app): State<Arc<App>>, asker: Asker, body: Body) -> Result<Response, Failure> {
    let request: GenerateRequest = body::json(&app, asker.0.0, body).await?;
    stream(&app, order::generate(&app, named(asker), request)?).await
}

/// `POST /chat`.
pub async fn chat(State(app): State<Arc<App>>, asker: Asker, body: Body) -> Result<Response, Failure> {
    let request: ChatRequest = body::json(&app, asker.0.0, body).await?;
    stream(&app, order::chat(&app, named(asker), request)?).await
}

/// `POST /load`.
pub async fn load(State(app): State<Arc<App>>, asker: Asker, body: Body) -> Result<Response, Failure> {
    let request: LoadRequest = body::json(&app, asker.0.0, body).await?;
    allowed(&app, asker.0.0, Action::ManageModels).await?;
    stream(&app, order::load(&app, named(asker), &request)?).await
}

/// `POST /unload`.
pub async fn unload(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Result<Response, Failure> {
    let request: UnloadRequest = body::json(&app, peer, body).await?;
    allowed(&app, peer, Action::ManageModels).await?;
    let model = app.entry(Some(&request.model))?.name.clone();
    let was_loaded = app.models.unload(&model);
    Ok(reply::ok(&ModelReply { model, was_loaded }))
}

/// `POST /score`.
pub async fn score(State(app): State<Arc<App>>, asker: Asker, body: Body) -> Result<Response, Failure> {
    let request: ScoreRequest = body::json(&app, asker.0.0, body).await?;
    if request.top > TOP_MAX {
        let message = format!("`top` must be from 0 to {TOP_MAX}, not {}", request.top);
        return Err(Failure::bad_field("top", message));
    }
    let entry = app.entry(request.model.as_deref())?;
    let (Extension(peer), Extension(id)) = asker;
    Ok(reply::ok(
        &score_prompt(
            &app,
            &id.0,
            peer.uid,
            entry,
            request.prompt,
            request.top,
            request.priority,
        )
        .await?,
    ))
}

fn named((Extension(peer), Extension(id)): Asker) -> order::Asker {
    order::Asker {
        uid: peer.uid,
        id: id.0,
    }
}

/// Refuses what the peer may not do; it is not asked for a password.
pub async fn allowed(app: &App, peer: Peer, action: Action) -> Result<(), Failure> {
    app.authority.check(action, &peer.subject(), false).await
}

/// Waits for the first event, so that what fails at once is an HTTP error, then streams.
async fn stream(app: &Arc<App>, order: Order) -> Result<Response, Failure> {
    let mut answer: Answer = begin(app, order)?;
    let first = match answer.next().await {
        Some(Err(failure)) => return Err(failure),
        first => first,
    };
    let id = answer.id().to_owned();
    let body = Streaming::new(app, answer, first, Lines).body();
    let response = ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response();
    Ok(reply::with_id(response, &id))
}

/// One JSON object a line.
struct Lines;

impl Render for Lines {
    fn item(&mut self, _index: usize, item: Result<Event, Failure>, out: &mut Vec<u8>) {
        let event = item.unwrap_or_else(|failure| Event::Error(failure.0));
        // An event is plain data and always has a JSON form.
        if serde_json::to_writer(&mut *out, &event).is_ok() {
            out.push(b'\n');
        }
    }

    fn end(&mut self, _out: &mut Vec<u8>) {}
}
