//! `hyp cancel`: stops a request that another terminal waits for.
use super::Session;
use crate::exit::Failure;
use crate::flags::CancelFlags;
use crate::http::segment;
use hyprstream_protocol::CancelReply;

/// Cancels one of the caller's requests.
pub fn run(session: &Session, flags: &CancelFlags) -> Result<(), Failure> {
    let reply = session
        .client()?
        .delete(&format!("/jobs/{}", segment(&flags.job)))?;
    session.reply(&reply, |_, reply: CancelReply| {
        session.remark(&format!("{} is cancelled", reply.id));
        Ok(())
    })
}
