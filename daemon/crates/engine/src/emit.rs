//! The way of events from a sequence to its sink. Invariant: items leave in order, none is lost while somebody listens,
//! and what waits here is bounded by one step's worth, since a sequence with waiting items does not run.
use crate::{EngineError, Sink};
use hyprstream_protocol::Event;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub struct Outlet {
    sink: Box<dyn Sink>,
    waiting: VecDeque<Result<Event, EngineError>>,
    blocked_since: Option<Instant>,
}

/// Where an outlet stands after a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Everything is out.
    Clear,
    /// The client reads too slowly.
    Blocked,
    /// The client has read nothing for longer than is allowed.
    Stalled,
    /// Nobody listens.
    Gone,
}

impl Outlet {
    pub fn new(sink: Box<dyn Sink>) -> Outlet {
        Outlet {
            sink,
            waiting: VecDeque::with_capacity(4),
            blocked_since: None,
        }
    }

    pub fn push(&mut self, item: Result<Event, EngineError>) {
        if self.waiting.is_empty() && self.sink.ready() {
            self.sink.send(item);
        } else {
            self.waiting.push_back(item);
        }
    }

    /// Whether items wait for the client.
    pub fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Drops what waits and puts an error in its place.
    pub fn fail(&mut self, error: EngineError) {
        self.waiting.clear();
        self.push(Err(error));
    }

    pub fn flush(&mut self, now: Instant, stall: Duration) -> Flow {
        if self.sink.closed() {
            return Flow::Gone;
        }
        while !self.waiting.is_empty() && self.sink.ready() {
            if let Some(item) = self.waiting.pop_front() {
                self.sink.send(item);
                self.blocked_since = None;
            }
        }
        if self.waiting.is_empty() {
            self.blocked_since = None;
            return Flow::Clear;
        }
        let since = *self.blocked_since.get_or_insert(now);
        if now.duration_since(since) > stall {
            Flow::Stalled
        } else {
            Flow::Blocked
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Shared {
        room: AtomicUsize,
        got: Mutex<Vec<Result<Event, EngineError>>>,
    }

    struct Narrow(Arc<Shared>);

    impl Sink for Narrow {
        fn ready(&self) -> bool {
            self.0.room.load(Ordering::Relaxed) > 0
        }
        fn closed(&self) -> bool {
            false
        }
        fn send(&mut self, item: Result<Event, EngineError>) {
            self.0.room.fetch_sub(1, Ordering::Relaxed);
            self.0.got.lock().unwrap().push(item);
        }
    }

    #[test]
    fn items_wait_in_order_and_a_stall_is_noticed() {
        let shared = Arc::new(Shared::default());
        let mut outlet = Outlet::new(Box::new(Narrow(shared.clone())));
        let (start, stall) = (Instant::now(), Duration::from_secs(5));
        for ahead in 0..3 {
            outlet.push(Ok(Event::Queued { ahead }));
        }
        assert_eq!(outlet.flush(start, stall), Flow::Blocked);
        shared.room.store(2, Ordering::Relaxed);
        assert_eq!(
            outlet.flush(start + stall * 2, stall),
            Flow::Blocked,
            "progress starts the clock anew"
        );
        assert_eq!(outlet.flush(start + stall * 4, stall), Flow::Stalled);
        shared.room.store(1, Ordering::Relaxed);
        assert_eq!(outlet.flush(start, stall), Flow::Clear);
        let order: Vec<_> = shared
            .got
            .lock()
            .unwrap()
            .iter()
            .cloned()
            .map(Result::unwrap)
            .collect();
        assert_eq!(
            order,
            (0..3).map(|ahead| Event::Queued { ahead }).collect::<Vec<_>>()
        );
    }
}
