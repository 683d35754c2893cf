//! `hyp delete`: a model's files off the disk.
use super::Session;
use crate::exit::Failure;
use crate::flags::NameFlags;
use crate::http::segment;
use hyprstream_protocol::FileReply;

/// Deletes; requests that run with the model go on to their end.
pub fn run(session: &Session, flags: &NameFlags) -> Result<(), Failure> {
    let path = format!("/models/{}", segment(&flags.name));
    let reply = session.client()?.delete(&path)?;
    session.reply(&reply, |_, reply: FileReply| {
        session.remark(&format!("{} is deleted", reply.model));
        Ok(())
    })
}
