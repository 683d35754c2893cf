//! The native routes under `/hyprstream/v1`. Invariant: what fails before the first event is an HTTP error; what fails
//! later is an `error` event.
mod files;
mod state;
mod text;
mod work;

pub use state::in_words;

use crate::app::App;
use axum::Router;
use axum::routing::{delete, get, post};
use std::sync::Arc;

/// All of them.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/status", get(state::status))
        .route("/models", get(state::models))
        .route(
            "/models/{*name}",
            get(state::model).put(files::install).delete(files::delete),
        )
        .route("/reload", post(state::reload))
        .route("/jobs", get(state::jobs))
        .route("/jobs/{id}", delete(state::cancel))
        .route("/load", post(work::load))
        .route("/unload", post(work::unload))
        .route("/generate", post(work::generate))
        .route("/chat", post(work::chat))
        .route("/score", post(work::score))
        .route("/tokenize", post(text::tokenize))
        .route("/detokenize", post(text::detokenize))
}
