//! One method call from its arguments to its answer. Invariant: a call that wants an answer gets exactly one.
use super::Door;
use super::clients::{Client, Weight};
use super::refusal::Refusal;
use crate::errors::Failure;
use hyprstream_protocol::ErrorCode;
use serde::Serialize;
use std::sync::Arc;
use zbus::message::Flags;
use zbus::wire::DynamicDeserialize;
use zbus::{DynamicType, Message};

/// Options of one call.
pub const OPTIONS_BYTES_MAX: usize = 256 << 10;

/// A call that came over the bus.
pub struct Call {
    /// Where it came in.
    pub door: Arc<Door>,
    /// Who calls.
    pub client: Arc<Client>,
    /// Object path.
    pub path: String,
    /// Interface, where the caller says which.
    pub interface: Option<String>,
    /// Method.
    pub member: String,
    message: Message,
    _weight: Weight,
}

impl Call {
    /// Reads the head; `None` where it lacks what every call has.
    pub fn new(door: &Arc<Door>, client: &Arc<Client>, message: Message, weight: Weight) -> Option<Call> {
        let header = message.header();
        let path = header.path()?.as_str().to_owned();
        let interface = header.interface().map(|name| name.as_str().to_owned());
        let member = header.member()?.as_str().to_owned();
        drop(header);
        Some(Call {
            door: Arc::clone(door),
            client: Arc::clone(client),
            path,
            interface,
            member,
            message,
            _weight: weight,
        })
    }

    /// Hands the arguments to `read`. `wanted` is their signature.
    pub fn args<T, R>(&self, wanted: &str, read: impl FnOnce(T) -> R) -> Result<R, Refusal>
    where
        T: for<'a> DynamicDeserialize<'a>,
    {
        let body = self.message.body();
        let got = body.signature().to_string_no_parens();
        let wrong = || Refusal::wrong_arguments(&self.member, wanted, &got);
        if got != wanted {
            return Err(wrong());
        }
        body.deserialize::<T>().map(read).map_err(|_| wrong())
    }

    /// Its bytes as they came.
    pub fn bytes(&self) -> usize {
        self.message.data().bytes().len()
    }

    /// Refuses options that are too large before anything of them is read: each byte of theirs may become a value of its
    /// own, a hundred times its size. `before` is the signature of what comes before them.
    pub fn small_options<T>(&self, before: &str) -> Result<(), Failure>
    where
        T: for<'a> serde::Deserialize<'a>,
    {
        let body = self.message.body();
        let read = body.data().deserialize_for_signature::<_, T>(before);
        // What cannot be read is refused where all of it is.
        let bytes = read.map_or(0, |(_, read)| body.len().saturating_sub(read));
        match bytes > OPTIONS_BYTES_MAX {
            false => Ok(()),
            true => {
                let message = format!("the options have {OPTIONS_BYTES_MAX} bytes at most");
                Err(Failure::new(ErrorCode::TooLarge, message))
            }
        }
    }

    /// Refuses arguments where there should be none.
    pub fn no_args(&self) -> Result<(), Refusal> {
        match self.message.body().signature().to_string_no_parens() {
            got if got.is_empty() => Ok(()),
            got => Err(Refusal::wrong_arguments(&self.member, "", &got)),
        }
    }

    /// Whether the caller waits while a person is asked for a password.
    pub fn may_interact(&self) -> bool {
        let flags = self.message.primary_header().flags();
        flags.contains(Flags::ALLOW_INTERACTIVE_AUTH)
    }

    fn wants_answer(&self) -> bool {
        let flags = self.message.primary_header().flags();
        !flags.contains(Flags::NO_REPLY_EXPECTED)
    }

    /// Answers.
    pub async fn reply<B: Serialize + DynamicType + Sync>(&self, body: &B) {
        if self.wants_answer() {
            let sent = self.door.bus.reply(&self.message.header(), body).await;
            self.door.lost_message(sent);
        }
    }

    /// Answers with an error.
    pub async fn refuse(&self, refusal: &Refusal) {
        if self.wants_answer() {
            refuse(&self.door, &self.message, refusal).await;
        }
    }
}

/// Answers a call that was not even looked at.
pub async fn refuse(door: &Door, message: &Message, refusal: &Refusal) {
    let name = refusal.name.as_str();
    let sent = door
        .bus
        .reply_error(&message.header(), name, &refusal.message)
        .await;
    door.lost_message(sent);
}
