//! `hyp detokenize`: token ids back to text.
use super::Session;
use crate::exit::Failure;
use crate::flags::DetokenizeFlags;
use hyprstream_protocol::{DetokenizeReply, DetokenizeRequest};

/// Prints the text of the tokens.
pub fn run(session: &Session, flags: DetokenizeFlags) -> Result<(), Failure> {
    let request = DetokenizeRequest {
        model: flags.model.model,
        tokens: flags.ids,
    };
    let reply = session.client()?.compute("/detokenize", &request)?;
    session.reply(&reply, |out, reply: DetokenizeReply| {
        out.text(&reply.text)?;
        out.end_line()
    })
}
