//! From the engine's thread to a client's task. Invariant: the last item always has room, whatever the client reads.
use crate::errors::Failure;
use crate::jobs::AtWork;
use crate::models::Lease;
use hyprstream_engine::{EngineError, Sink};
use hyprstream_protocol::Event;
use tokio::sync::mpsc;

/// What travels.
pub type Item = Result<Event, Failure>;

/// The engine's end of the channel. It holds the model in memory for as long as the request is at work.
pub struct ChannelSink {
    events: mpsc::Sender<Item>,
    last: Option<mpsc::OwnedPermit<Item>>,
    _lease: Lease,
    _job: Option<AtWork>,
}

/// A sink into this channel, with room set aside for the last item.
pub async fn sink(
    events: &mpsc::Sender<Item>,
    lease: Lease,
    job: Option<AtWork>,
) -> Result<ChannelSink, Failure> {
    let last = events
        .clone()
        .reserve_owned()
        .await
        .map_err(|_| Failure::cancelled())?;
    Ok(ChannelSink {
        events: events.clone(),
        last: Some(last),
        _lease: lease,
        _job: job,
    })
}

impl Sink for ChannelSink {
    fn ready(&self) -> bool {
        self.events.capacity() > 0
    }

    fn closed(&self) -> bool {
        self.events.is_closed()
    }

    fn send(&mut self, item: Result<Event, EngineError>) {
        let item = item.map_err(Failure::from);
        if !matches!(item, Err(_) | Ok(Event::Done { .. })) {
            // The engine asks for room first, and where it had not, a lost piece must not look like a whole answer.
            if let Err(mpsc::error::TrySendError::Full(_)) = self.events.try_send(item)
                && let Some(last) = self.last.take()
            {
                last.send(Err(Failure::fault("an answer overran its channel")));
            }
            return;
        }
        if let Some(last) = self.last.take() {
            last.send(item);
        }
    }
}
