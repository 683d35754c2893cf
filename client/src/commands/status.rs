//! `hyp status`: what the daemon does.
use super::Session;
use crate::exit::Failure;
use crate::table::{Cell, Fields, size, span};
use hyprstream_protocol::{KvBlocks, Status};

/// Shows the daemon.
pub fn run(session: &Session) -> Result<(), Failure> {
    let (client, socket) = session.connect()?;
    let reply = client.get("/status")?;
    session.reply(&reply, |out, status: Status| {
        let list = |names: &[String]| {
            if names.is_empty() {
                Cell::none()
            } else {
                Cell::text(names.join(", "))
            }
        };
        let mut fields = Fields::new();
        fields
            .add("state", Cell::text(&status.state))
            .add("socket", Cell::text(socket.display().to_string()))
            .add("version", Cell::text(&status.version))
            .add("pid", Cell::text(status.pid.to_string()))
            .add("uptime", span(status.uptime_s))
            .add("models in", list(&status.models_dirs))
            .add(
                "default model",
                Cell::maybe(status.default_model.as_ref(), Cell::text),
            )
            .add("loaded", list(&status.loaded))
            .add("running", Cell::text(status.running.to_string()))
            .add(
                "queued",
                Cell::both(
                    format!("{} of {}", status.queued, status.queue_max),
                    status.queued,
                ),
            )
            .add("threads", Cell::text(status.threads.to_string()))
            .add("processor", Cell::text(&status.isa))
            .add("memory budget", size(status.memory.budget))
            .add("memory claimed", size(status.memory.claimed))
            .add("memory resident", size(status.memory.resident))
            .add("memory private", Cell::maybe(status.memory.private, size))
            .add("KV blocks", Cell::maybe(status.kv_blocks.as_ref(), kv_blocks));
        out.fields(&fields)
    })
}

fn kv_blocks(blocks: &KvBlocks) -> Cell {
    let KvBlocks {
        total,
        in_use,
        kept,
        tokens,
    } = blocks;
    Cell::both(
        format!("{in_use} in use, {kept} kept, of {total} ({tokens} tokens each)"),
        in_use,
    )
}
