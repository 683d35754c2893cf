//! Waiting without hoping. Invariant: nothing sleeps for a guessed time; a condition is polled until a deadline.
use std::time::{Duration, Instant};

/// Longest wait for anything that should happen at once. Generous: a loaded machine is slow, not broken.
pub const SOON: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(10);

/// Polls until `ready` gives something, and says what was waited for when it never does.
pub fn until<T>(what: &str, ready: impl FnMut() -> Option<T>) -> T {
    within(SOON, what, ready)
}

/// The same with a deadline of its own.
pub fn within<T>(limit: Duration, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(POLL);
    }
}
