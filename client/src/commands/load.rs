//! `hyp load`: a model into memory, before anybody asks.
use super::{Session, answer};
use crate::exit::Failure;
use crate::flags::NameFlags;
use hyprstream_protocol::LoadRequest;

/// Loads and waits until it is done.
pub fn run(session: &Session, flags: NameFlags) -> Result<(), Failure> {
    let client = session.client()?;
    session.spinner.say(format!("loading {}", flags.name));
    let events = client.events(
        "/load",
        &LoadRequest {
            model: flags.name.clone(),
        },
    )?;
    answer::print(session, events, &mut String::new())?;
    session.remark(&format!("{} is loaded", flags.name));
    Ok(())
}
