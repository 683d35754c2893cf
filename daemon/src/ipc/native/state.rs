//! Routes that tell how things stand: status, models, jobs. Invariant: they load nothing and wait for nothing but a
//! disk.
use super::work::allowed;
use crate::app::{App, Phase};
use crate::authority::Action;
use crate::catalog::Entry;
use crate::config::own_uid;
use crate::errors::Failure;
use crate::ipc::peer::Peer;
use crate::ipc::reply::{self, Segment};
use crate::jobs::ROOT;
use crate::models::{private_memory, resident_memory};
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use hyprstream_model::{ModelFile, Summary};
use hyprstream_protocol::{
    CancelReply, Jobs, KvBlocks, Memory, ModelDetail, ModelState, Models, ReloadReply, Status,
};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// `GET /status`.
pub async fn status(State(app): State<Arc<App>>, Extension(peer): Extension<Peer>) -> Response {
    let stats = app.engine.stats();
    let (claimed, loaded) = app.models.claimed();
    let small = |number: usize| number.try_into().unwrap_or(u32::MAX);
    // Counts of what others do are not for everyone.
    let sees_all = peer.uid == ROOT || peer.uid == own_uid();
    let (running, queued) = match sees_all {
        true => (stats.running, stats.queued),
        false => app.jobs.count(peer.uid),
    };
    reply::ok(&Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_s: app.started.elapsed().as_secs(),
        state: words(&app, running, queued),
        models_dirs: app
            .models_dirs
            .iter()
            .map(|path| path.display().to_string())
            .collect(),
        default_model: app.default_model(),
        loaded,
        running: small(running),
        queued: small(queued),
        queue_max: small(stats.queue_max),
        drafted_tokens: sees_all.then_some(stats.drafted),
        accepted_tokens: sees_all.then_some(stats.accepted),
        threads: small(stats.threads),
        isa: stats.isa.to_owned(),
        memory: Memory {
            budget: app.models.budget(),
            claimed,
            resident: resident_memory(),
            private: private_memory(),
        },
        kv_blocks: sees_all.then(|| KvBlocks {
            tokens: small(hyprstream_engine::KV_BLOCK),
            total: small(stats.kv.total),
            in_use: small(stats.kv.in_use),
            kept: small(stats.kv.kept),
        }),
    })
}

/// One line for people in `systemctl status`, which everybody can read: nobody's name, and not how much there is to do.
pub fn in_words(app: &App) -> String {
    let stats = app.engine.stats();
    match *app.phase.borrow() {
        Phase::Draining | Phase::Ending => "stopping".to_owned(),
        Phase::Serving if stats.running + stats.queued > 0 => "at work".to_owned(),
        Phase::Serving => at_rest(app),
    }
}

/// As `in_words`, for one user, with that user's requests.
fn words(app: &App, running: usize, queued: usize) -> String {
    match *app.phase.borrow() {
        Phase::Draining | Phase::Ending => {
            format!("stopping, requests left: {}", running + queued)
        }
        Phase::Serving if running + queued > 0 => {
            format!("requests running: {running}, waiting: {queued}")
        }
        Phase::Serving => at_rest(app),
    }
}

fn at_rest(app: &App) -> String {
    if app.models.is_loading() {
        return "loading a model".to_owned();
    }
    let models = app.catalog.snapshot().entries.len();
    match app.models.claimed().1.as_slice() {
        [] => format!("ready; models: {models}"),
        loaded => format!("ready; models: {models}, loaded: {}", loaded.join(", ")),
    }
}

/// `POST /reload`.
pub async fn reload(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
) -> Result<Response, Failure> {
    allowed(&app, peer, Action::Configure).await?;
    let waiting = crate::reload::reload(&app).await?;
    Ok(reply::ok(&ReloadReply {
        waiting: waiting.into_iter().map(str::to_owned).collect(),
    }))
}

/// `GET /models`.
pub async fn models(State(app): State<Arc<App>>) -> Response {
    let snapshot = app.catalog.snapshot();
    let models = snapshot
        .entries
        .values()
        .map(|entry| app.describe(entry))
        .collect();
    reply::ok(&Models {
        models,
        default: app.default_model(),
    })
}

/// `GET /models/NAME`.
pub async fn model(State(app): State<Arc<App>>, name: Segment) -> Result<Response, Failure> {
    let entry = app.entry(Some(&reply::segment(name)?))?;
    let model = app.describe(&entry);
    let chat_template = match model.state {
        ModelState::Broken => None,
        _ => chat_template(&app, &entry).await,
    };
    let summary = entry.summary();
    Ok(reply::ok(&ModelDetail {
        model,
        path: entry.path.display().to_string(),
        digest: entry.digest.clone(),
        memory_needed: app.models.needed(&entry),
        shape: summary.map(|summary| shape(summary)).unwrap_or_default(),
        tokenizer: summary.and_then(|s| s.has_tokenizer.clone()),
        chat_template,
    }))
}

async fn chat_template(app: &App, entry: &Arc<Entry>) -> Option<String> {
    if !entry.summary()?.has_template {
        return None;
    }
    if let Some(lease) = app.models.acquire_now(entry) {
        return lease.model().file().chat_template_source().map(str::to_owned);
    }
    let path = entry.path.clone();
    let reading = tokio::task::spawn_blocking(move || {
        ModelFile::open(&path)
            .ok()?
            .chat_template_source()
            .map(str::to_owned)
    });
    reading.await.ok().flatten()
}

fn shape(summary: &Summary) -> Map<String, Value> {
    let config = &summary.config;
    let windowed = config.windows.iter().flatten().count();
    let fields = [
        ("hidden", json!(config.hidden)),
        ("layers", json!(config.layers)),
        ("heads", json!(config.heads)),
        ("kv_heads", json!(config.kv_heads)),
        ("head_dim", json!(config.head_dim)),
        ("ffn", json!(config.ffn)),
        ("vocab", json!(config.vocab)),
        ("norm_eps", decimal(config.norm_eps)),
        ("rope_theta", decimal(config.rope.theta)),
        ("rope_dims", json!(config.rope.dims)),
        ("tied", json!(config.tied)),
        ("windowed_layers", json!(windowed)),
    ];
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The shortest decimal that names this number: `1e-6`, not what its nearest f64 is.
fn decimal(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// `GET /jobs`.
pub async fn jobs(State(app): State<Arc<App>>, Extension(peer): Extension<Peer>) -> Response {
    reply::ok(&Jobs {
        jobs: app.jobs.list(peer.uid),
    })
}

/// `DELETE /jobs/ID`.
pub async fn cancel(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    id: Segment,
) -> Result<Response, Failure> {
    let id = reply::segment(id)?;
    app.jobs.cancel(&id, peer.uid)?;
    Ok(reply::ok(&CancelReply { id }))
}
