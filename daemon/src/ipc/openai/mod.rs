//! The OpenAI routes under `/v1`, as the public API reference describes them. Invariant: a parameter that would change
//! the answer is obeyed or refused by name, never dropped.
mod chat;
mod completion;
mod completions;
mod fields;
mod logprobs;
mod messages;
mod sampling;
mod sse;

use super::reply::{self, Segment};
use crate::app::App;
use crate::errors::Failure;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyprstream_protocol::{Blame, ErrorCode, FinishReason, Usage};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::SystemTime;

/// All of them.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/models", get(models))
        .route("/models/{*name}", get(model))
        .route("/chat/completions", post(chat::create))
        .route("/completions", post(completions::create))
}

/// A failure in the form that OpenAI's clients read.
pub struct OpenAiFailure(Failure);

impl<F: Into<Failure>> From<F> for OpenAiFailure {
    fn from(failure: F) -> Self {
        OpenAiFailure(failure.into())
    }
}

impl IntoResponse for OpenAiFailure {
    fn into_response(self) -> Response {
        error(&self.0)
    }
}

/// An error answer.
pub fn error(failure: &Failure) -> Response {
    let mut response = reply::json(reply::status(failure), &error_json(failure));
    reply::retry_after(&mut response, failure);
    response
}

fn error_json(failure: &Failure) -> Value {
    let body = &failure.0;
    let kind = match (body.code, body.code.blame()) {
        (ErrorCode::Denied, _) => "permission_error",
        (ErrorCode::Busy, _) => "rate_limit_error",
        (_, Blame::Client) => "invalid_request_error",
        (_, Blame::Server) => "server_error",
    };
    // OpenAI's own name for this one; clients compare with it.
    let code = match body.code {
        ErrorCode::ContextExceeded => "context_length_exceeded",
        code => code.as_str(),
    };
    // OpenAI has no sections within a request.
    let param = body
        .field
        .as_deref()
        .map(|field| field.strip_prefix("sampling.").unwrap_or(field));
    json!({"error": {"message": body.message, "type": kind, "param": param, "code": code}})
}

async fn models(State(app): State<Arc<App>>) -> Response {
    let snapshot = app.catalog.snapshot();
    let usable = snapshot
        .entries
        .values()
        .filter(|entry| entry.summary().is_some());
    let data: Vec<Value> = usable
        .map(|entry| model_json(&entry.name, entry.modified_s()))
        .collect();
    reply::ok(&json!({"object": "list", "data": data}))
}

async fn model(State(app): State<Arc<App>>, name: Segment) -> Result<Response, OpenAiFailure> {
    let entry = app.entry(Some(&reply::segment(name)?))?;
    Ok(reply::ok(&model_json(&entry.name, entry.modified_s())))
}

fn model_json(name: &str, created: u64) -> Value {
    json!({"id": name, "object": "model", "created": created, "owned_by": "hyprstream"})
}

/// What every answer and every chunk of it begins with.
#[derive(Clone)]
struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
}

impl Head {
    fn new(prefix: &str, id: &str, object: &'static str, model: &str) -> Head {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Head {
            id: format!("{prefix}-{id}"),
            object,
            created: now.as_secs(),
            model: model.to_owned(),
        }
    }

    fn with(&self, choices: Value, usage: Option<Value>) -> Value {
        let mut all = json!({
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if let (Some(usage), Some(fields)) = (usage, all.as_object_mut()) {
            fields.insert("usage".to_owned(), usage);
        }
        all
    }
}

fn finish(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

fn usage_json(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens.saturating_add(usage.completion_tokens),
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}

#[cfg(test)]
mod tests;
