//! A talk that the daemon keeps for its owner: each question goes with all that was said before. Invariant: a session is
//! seen by its owner's uid and the superuser alone, answers one question at a time, and ends with its owner's connection.
use super::call::Call;
use super::clients::Client;
use super::daemon1::allow;
use super::options::{Given, Options};
use super::refusal::Refusal;
use super::{Door, Properties, work};
use crate::app::Active;
use crate::authority::Action;
use crate::errors::Failure;
use crate::order;
use hyprstream_protocol::{ChatRequest, ErrorBody, ErrorCode};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zbus::{Fd, ObjectPath, Variant};

/// The interface of a session.
pub const SESSION: &str = "org.hyprstream.Session1";
/// Where sessions are.
pub const SESSIONS_PATH: &str = "/org/hyprstream/Daemon1/sessions";
/// Sessions of one user.
pub const PER_USER_MAX: usize = 32;
/// Text of one talk: more than any context holds that runs on one machine, and little enough for all to be kept.
pub const TALK_BYTES_MAX: usize = 1 << 20;

/// One talk.
pub struct Session {
    /// Its object.
    pub path: String,
    /// Who opened it.
    pub owner: Arc<Client>,
    model: String,
    options: Options,
    talk: Mutex<Talk>,
    /// A daemon that keeps a talk is not idle.
    _active: Active,
}

#[derive(Default)]
struct Talk {
    messages: Vec<Value>,
    bytes: usize,
    turns: u32,
    busy: bool,
}

impl Talk {
    fn add(&mut self, role: &str, content: &str) {
        self.bytes = self.bytes.saturating_add(content.len());
        self.messages.push(json!({"role": role, "content": content}));
    }
}

/// The one question that a session answers; the session is free again when it is dropped.
struct Turn(Arc<Session>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.talk().busy = false;
    }
}

impl Session {
    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it shows.
    pub fn properties(&self) -> Properties {
        Properties::from([
            ("Model", Variant::new(self.model.clone())),
            ("Owner", Variant::new(self.owner.uid)),
            ("Turns", Variant::new(self.talk().turns)),
        ])
    }

    fn turn(self: &Arc<Self>) -> Result<Turn, Failure> {
        let mut talk = self.talk();
        if talk.busy {
            let message =
                "the session still answers the question before; read that answer first, or cancel its job";
            return Err(Failure::new(ErrorCode::Busy, message));
        }
        talk.busy = true;
        drop(talk);
        Ok(Turn(Arc::clone(self)))
    }

    /// Adds a question and its answer, and says how many there are now. An answer that broke off is not part of the
    /// talk, nor is its question.
    fn remember(&self, question: &str, heard: &work::Heard) -> Option<u32> {
        heard.end.as_ref().ok()?;
        let mut talk = self.talk();
        talk.add("user", question);
        talk.add("assistant", &heard.text);
        talk.turns = talk.turns.saturating_add(1);
        Some(talk.turns)
    }

    /// The talk so far with one more question.
    fn messages(&self, question: &str) -> Result<Vec<Value>, Failure> {
        let talk = self.talk();
        if talk.bytes.saturating_add(question.len()) > TALK_BYTES_MAX {
            return Err(talk_is_full());
        }
        let mut messages = talk.messages.clone();
        messages.push(json!({"role": "user", "content": question}));
        Ok(messages)
    }
}

fn talk_is_full() -> Failure {
    let message = format!("a session's talk has {TALK_BYTES_MAX} bytes at most; open a new session");
    Failure::new(ErrorCode::TooLarge, message)
}

/// `OpenSession`.
pub async fn open(call: &Call) -> Result<(), Refusal> {
    call.small_options::<(String,)>("(s)")?;
    // Its options are kept, so they count.
    if call.bytes() > TALK_BYTES_MAX {
        return Err(talk_is_full().into());
    }
    let (model, given) = call.args("sa{sv}", |args: (String, Given)| args)?;
    let options = Options::read(given)?;
    let app = &call.door.app;
    app.admit()?;
    let entry = app.entry(Some(model.as_str()).filter(|name| !name.is_empty()))?;
    // Options that are wrong are refused here, not at the first question.
    options
        .clone()
        .request::<ChatRequest>("", [("messages", Value::Array(Vec::new()))])?;
    let mut talk = Talk {
        bytes: call.bytes(),
        ..Talk::default()
    };
    if let Some(system) = &options.system {
        talk.add("system", system);
    }
    let session = Arc::new(Session {
        path: format!("{SESSIONS_PATH}/{}", crate::jobs::new_id()),
        owner: Arc::clone(&call.client),
        model: entry.name.clone(),
        options,
        talk: Mutex::new(talk),
        _active: app.activity.begin(),
    });
    enter(&call.door, &session)?;
    let properties = session.properties();
    call.door
        .added(Some(&session.owner), &session.path, SESSION, &properties)
        .await;
    let path = ObjectPath::from_str_unchecked(&session.path);
    call.reply(&path).await;
    Ok(())
}

fn enter(door: &Door, session: &Arc<Session>) -> Result<(), Failure> {
    let mut objects = door.objects();
    // Looked at under the lock, which whoever forgets the client takes too.
    if session.owner.is_gone() {
        return Err(Failure::cancelled());
    }
    let uid = session.owner.uid;
    let held = objects.sessions.values().filter(|other| other.owner.uid == uid);
    if held.count() >= PER_USER_MAX {
        let message = format!("you have {PER_USER_MAX} sessions already; close some");
        return Err(Failure(
            ErrorBody::new(ErrorCode::Busy, message).retry_after_ms(1_000),
        ));
    }
    objects.sessions.insert(session.path.clone(), Arc::clone(session));
    Ok(())
}

/// A method of a session.
pub async fn method(call: &Call, session: Arc<Session>) -> Result<(), Refusal> {
    match call.member.as_str() {
        "Ask" => ask(call, &session).await,
        "Close" => {
            call.no_args()?;
            let known = call.door.objects().sessions.remove(&session.path).is_some();
            if known {
                call.door
                    .removed(Some(&session.owner), &session.path, SESSION)
                    .await;
            }
            call.reply(&()).await;
            Ok(())
        }
        _ => Err(Refusal::unknown_method(&call.path, &call.member)),
    }
}

async fn ask(call: &Call, session: &Arc<Session>) -> Result<(), Refusal> {
    allow(call, Action::Use).await?;
    call.small_options::<(String,)>("(s)")?;
    let (question, given) = call.args("sa{sv}", |args: (String, Given)| args)?;
    let options = session.options.with(Options::read(given)?.no_session()?);
    let format = options.format;
    let turn = session.turn()?;
    let door = &call.door;
    let messages = session.messages(&question)?;
    let request: ChatRequest = options.request(&session.model, [("messages", Value::Array(messages))])?;
    let (outlet, reader) = work::outlet(door, format)?;
    let begun = work::start(call, order::chat(&door.app, work::asker(call), request)?).await?;
    let job = Arc::clone(&begun.job);
    let door = Arc::clone(door);
    tokio::spawn(async move {
        let session = Arc::clone(&turn.0);
        let end = |heard: &work::Heard| {
            let turns = turn.0.remember(&question, heard);
            drop(turn);
            turns
        };
        let (_, turns) = begun.hear(&door, Some(outlet), end).await;
        if let Some(turns) = turns {
            let news = Properties::from([("Turns", Variant::new(turns))]);
            door.changed(Some(&session.owner), &session.path, SESSION, &news)
                .await;
        }
    });
    let path = ObjectPath::from_str_unchecked(&job.path);
    call.reply(&(Fd::from(reader), path)).await;
    Ok(())
}
