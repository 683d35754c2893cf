//! `hyp unload`: memory back.
use super::Session;
use crate::exit::Failure;
use crate::flags::NameFlags;
use hyprstream_protocol::{ModelReply, UnloadRequest};

/// Unloads; the daemon finishes the model's requests first.
pub fn run(session: &Session, flags: NameFlags) -> Result<(), Failure> {
    let reply = session
        .client()?
        .post("/unload", &UnloadRequest { model: flags.name })?;
    session.reply(&reply, |_, reply: ModelReply| {
        let what = if reply.was_loaded {
            "is unloaded"
        } else {
            "was not loaded"
        };
        session.remark(&format!("{} {what}", reply.model));
        Ok(())
    })
}
