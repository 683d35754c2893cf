//! Routes that make the engine work: generate, chat, score, load, unload. Invariant: what a route takes is one order,
//! the same that the other doors make.
use crate::answer::{Answer, Order, begin};
use crate::app::App;
use crate::errors::Failure;
use crate::ipc::body;
use crate::ipc::reply::{self, Asker};
use crate::ipc::stream::{Render, Streaming};
use crate::prompt::Input;
use crate::score::score as score_prompt;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyprstream_protocol::{
    ChatRequest, Event, GenerateRequest, JobKind, LoadRequest, ModelReply, Priority, Sampling, ScoreRequest,
    UnloadRequest,
};
use serde_json::Value;
use std::sync::Arc;

const TOP_MAX: u8 = 20;

/// `POST /generate`.
pub async fn generate(State(app): State<Arc<App>>, asker: Asker, body: Body) -> Result<Response, Failure> {
    let request: GenerateRequest = body::json(&app, body).await?;
    let input = Input::Prompt {
        prompt: request.prompt,
        parse_special: true,
    };
    let mut order = order(
        &app,
        asker,
        JobKind::Generate,
        request.model.as_deref(),
        Some(input),
    )?;
    order.sampling = request.sampling;
    order.echo = request.echo;
    order.priority = request.priority;
    stream(&app, order).await
}

/// `POST /chat`.
pub async fn chat(State(app): State<Arc<App>>, asker: Asker, body: Body) -> Result<Response, Failure> {
    let request: ChatRequest = body::json(&app, body).await?;
    if request.messages.is_empty() {
        return Err(Failure::bad_field(
            "messages",
            "`messages` is empty; give at least one turn",
        ));
    }
    let messages = request
        .messages
        .iter()
        .map(serde_json::to_value)
        .collect::<Result<Vec<Value>, _>>();
    let messages = messages.map_err(|_| Failure::fault("a message could not be written as JSON"))?;
    let input = Input::Chat {
        messages,
        tools: request.tools,
        vars: request.template_vars,
    };
    let mut order = order(&app, asker, JobKind::Chat, request.model.as_deref(), Some(input))?;
    order.sampling = request.sampling;
    order.priority = request.priority;
    stream(&app, order).await
}

/// `POST /load`.
pub async fn load(State(app): State<Arc<App>>, asker: Asker, body: Body) -> Result<Response, Failure> {
    let request: LoadRequest = body::json(&app, body).await?;
    let order = order(&app, asker, JobKind::Load, Some(&request.model), None)?;
    app.models.forgive(&order.entry.name);
    stream(&app, order).await
}

/// `POST /unload`.
pub async fn unload(State(app): State<Arc<App>>, body: Body) -> Result<Response, Failure> {
    let request: UnloadRequest = body::json(&app, body).await?;
    let model = app.entry(Some(&request.model))?.name.clone();
    let was_loaded = app.models.unload(&model);
    Ok(reply::ok(&ModelReply { model, was_loaded }))
}

/// `POST /score`.
pub async fn score(State(app): State<Arc<App>>, asker: Asker, body: Body) -> Result<Response, Failure> {
    let request: ScoreRequest = body::json(&app, body).await?;
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

fn order(
    app: &App,
    (Extension(peer), Extension(id)): Asker,
    kind: JobKind,
    model: Option<&str>,
    input: Option<Input>,
) -> Result<Order, Failure> {
    let (entry, sampling) = (app.entry(model)?, Sampling::default());
    Ok(Order {
        id: id.0,
        uid: peer.uid,
        kind,
        entry,
        input,
        sampling,
        echo: false,
        priority: Priority::default(),
    })
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
