//! The daemon's own interface. Invariant: what it takes becomes the same requests and orders as on the socket, and what
//! changes the machine is asked of polkit first.
use super::call::Call;
use super::options::{Given, Options};
use super::refusal::Refusal;
use super::{Door, Properties, sessions, work};
use crate::app::Phase;
use crate::authority::Action;
use crate::errors::Failure;
use crate::install::{self, Handed, Incoming, Source};
use crate::order;
use hyprstream_protocol::{ChatRequest, ErrorCode, GenerateRequest, LoadRequest};
use serde_json::{Value, json};
use std::sync::Arc;
use zbus::{Fd, ObjectPath, OwnedFd, Variant};

/// Messages of one talk.
pub const TURNS_MAX: usize = 8192;

impl Door {
    /// What the daemon shows of itself.
    pub fn properties(&self) -> Properties {
        let state = match *self.app.phase.borrow() {
            Phase::Serving => "serving",
            Phase::Draining | Phase::Ending => "stopping",
        };
        let default = self.app.default_model().unwrap_or_default();
        let codes = hyprstream_protocol::ErrorCode::ALL.map(super::refusal::error_name);
        Properties::from([
            ("Version", Variant::new(env!("CARGO_PKG_VERSION"))),
            ("State", Variant::new(state)),
            ("DefaultModel", Variant::new(default)),
            ("Errors", Variant::new(codes.to_vec())),
        ])
    }
}

/// A method of the daemon.
pub async fn method(call: &Call) -> Result<(), Refusal> {
    match call.member.as_str() {
        "Generate" => generate(call).await,
        "Chat" => chat(call).await,
        "Complete" => complete(call).await,
        "OpenSession" => {
            allow(call, Action::Use).await?;
            sessions::open(call).await
        }
        "Load" => load(call).await,
        "Unload" => unload(call).await,
        "Install" => install_model(call).await,
        "Delete" => delete(call).await,
        "Reload" => reload(call).await,
        _ => Err(Refusal::unknown_method(&call.path, &call.member)),
    }
}

/// Refuses what the caller may not do.
pub async fn allow(call: &Call, action: Action) -> Result<(), Failure> {
    let Some(subject) = call.door.subject(&call.client) else {
        return Ok(());
    };
    let authority = &call.door.app.authority;
    authority.check(action, &subject, call.may_interact()).await
}

async fn generate(call: &Call) -> Result<(), Refusal> {
    allow(call, Action::Use).await?;
    call.small_options::<(String, String)>("(ss)")?;
    let (model, prompt, given) = call.args("ssa{sv}", |args: (String, String, Given)| args)?;
    let options = Options::read(given)?.no_session()?;
    let format = options.format;
    let request: GenerateRequest = options.request(&model, [("prompt", Value::String(prompt))])?;
    let order = order::generate(&call.door.app, work::asker(call), request)?;
    stream(call, order, format).await
}

async fn chat(call: &Call) -> Result<(), Refusal> {
    let (format, request) = talk(call).await?;
    let order = order::chat(&call.door.app, work::asker(call), request)?;
    stream(call, order, format).await
}

async fn complete(call: &Call) -> Result<(), Refusal> {
    let (_, request) = talk(call).await?;
    let order = order::chat(&call.door.app, work::asker(call), request)?;
    let begun = work::start(call, order).await?;
    let (heard, ()) = begun.hear(&call.door, None, |_| ()).await;
    let result = heard.end?;
    call.reply(&(heard.text, result)).await;
    Ok(())
}

async fn talk(call: &Call) -> Result<(super::pipe::Format, ChatRequest), Refusal> {
    type Args = (String, Vec<(String, String)>, Given);
    allow(call, Action::Use).await?;
    call.small_options::<(String, Vec<(String, String)>)>("(sa(ss))")?;
    let (model, turns, given) = call.args("sa(ss)a{sv}", |args: Args| args)?;
    if turns.len() > TURNS_MAX {
        let message = format!("a talk has {TURNS_MAX} messages at most");
        return Err(Failure::new(ErrorCode::TooLarge, message).into());
    }
    let options = Options::read(given)?.no_session()?;
    let format = options.format;
    let messages = turns
        .into_iter()
        .map(|(role, content)| json!({"role": role, "content": content}));
    let messages = Value::Array(messages.collect());
    Ok((format, options.request(&model, [("messages", messages)])?))
}

async fn stream(
    call: &Call,
    order: crate::answer::Order,
    format: super::pipe::Format,
) -> Result<(), Refusal> {
    let (outlet, reader) = work::outlet(&call.door, format)?;
    let begun = work::start(call, order).await?;
    let job = Arc::clone(&begun.job);
    let door = Arc::clone(&call.door);
    tokio::spawn(async move {
        begun.carry(&door, Some(outlet)).await;
    });
    let path = ObjectPath::from_str_unchecked(&job.path);
    call.reply(&(Fd::from(reader), path)).await;
    Ok(())
}

async fn load(call: &Call) -> Result<(), Refusal> {
    let model = call.args("s", |model: String| model)?;
    allow(call, Action::ManageModels).await?;
    let request = LoadRequest { model };
    let order = order::load(&call.door.app, work::asker(call), &request)?;
    let begun = work::start(call, order).await?;
    let job = Arc::clone(&begun.job);
    let door = Arc::clone(&call.door);
    tokio::spawn(async move {
        begun.carry(&door, None).await;
    });
    call.reply(&ObjectPath::from_str_unchecked(&job.path)).await;
    Ok(())
}

async fn unload(call: &Call) -> Result<(), Refusal> {
    let model = call.args("s", |model: String| model)?;
    allow(call, Action::ManageModels).await?;
    let app = &call.door.app;
    let name = app.entry(Some(&model))?.name.clone();
    let job = enter(call, "unload", &name).await?;
    let was_loaded = app.models.unload(&name);
    call.reply(&ObjectPath::from_str_unchecked(&job.path)).await;
    let result = Properties::from([("was_loaded", Variant::new(was_loaded))]);
    call.door.job_over(&job, Ok(result)).await;
    Ok(())
}

async fn install_model(call: &Call) -> Result<(), Refusal> {
    let (file, name) = call.args("hs", |args: (OwnedFd, String)| args)?;
    allow(call, Action::Install).await?;
    let app = Arc::clone(&call.door.app);
    app.admit()?;
    let source = Handed::open(file.into()).await?;
    let asker = work::asker(call);
    let (incoming, held) = Incoming::begin(&app, &asker, &name, Some(source.bytes()))?;
    let door = &call.door;
    let job = door
        .enter_job(&call.client, held.id(), "install", incoming.name())
        .await?;
    call.reply(&ObjectPath::from_str_unchecked(&job.path)).await;
    let door = Arc::clone(door);
    tokio::spawn(async move {
        let end = super::copy::run(&door, &job, source, incoming, held).await;
        door.job_over(&job, end).await;
    });
    Ok(())
}

async fn delete(call: &Call) -> Result<(), Refusal> {
    let model = call.args("s", |model: String| model)?;
    allow(call, Action::Install).await?;
    let app = Arc::clone(&call.door.app);
    app.admit()?;
    let entry = install::named(&app, &model)?;
    let job = enter(call, "delete", &entry.name).await?;
    call.reply(&ObjectPath::from_str_unchecked(&job.path)).await;
    let end = install::delete(&app, &entry).await;
    let end = end.map(|bytes| Properties::from([("bytes", Variant::new(bytes))]));
    call.door.job_over(&job, end).await;
    Ok(())
}

async fn enter(call: &Call, kind: &'static str, model: &str) -> Result<Arc<super::jobs::Job>, Failure> {
    let id = crate::jobs::new_id();
    call.door.enter_job(&call.client, &id, kind, model).await
}

async fn reload(call: &Call) -> Result<(), Refusal> {
    call.no_args()?;
    allow(call, Action::Configure).await?;
    crate::reload::reload(&call.door.app).await?;
    call.reply(&()).await;
    Ok(())
}
