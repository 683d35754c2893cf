//! What the kernel said since the last look. Invariant: bounded by the number of files, however many events come.
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A file that was written and then left alone for so long counts as written, even if somebody keeps it open.
const OPEN_MAX: Duration = Duration::from_secs(10);

/// Events since the last look, gathered by path.
#[derive(Default)]
pub struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    dirty: bool,
    stopped: bool,
    written: HashMap<PathBuf, Instant>,
    closed: HashSet<PathBuf>,
    /// Counts published snapshots.
    edition: u64,
}

/// What [`Inbox::take`] hands over.
pub struct Mail {
    /// Files that are open and were written lately.
    pub open: HashSet<PathBuf>,
    /// Files that were closed, or renamed into place, since the last look.
    pub closed: HashSet<PathBuf>,
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something changed; look again.
    pub fn changed(&self) {
        self.state().dirty = true;
        self.wake.notify_all();
    }

    /// Somebody writes this file.
    pub fn wrote(&self, path: PathBuf) {
        let mut state = self.state();
        state.written.insert(path, Instant::now());
        state.dirty = true;
        drop(state);
        self.wake.notify_all();
    }

    /// This file was closed by its writer, or renamed into place.
    pub fn closed(&self, path: PathBuf) {
        let mut state = self.state();
        state.written.remove(&path);
        state.closed.insert(path);
        state.dirty = true;
        drop(state);
        self.wake.notify_all();
    }

    /// This path is gone.
    pub fn removed(&self, path: &PathBuf) {
        self.state().written.remove(path);
        self.changed();
    }

    /// Events were lost: nothing is known about who writes what.
    pub fn lost(&self) {
        self.state().written.clear();
        self.changed();
    }

    /// A new snapshot is out.
    pub fn published(&self) {
        self.state().edition += 1;
        self.wake.notify_all();
    }

    /// How many snapshots were published.
    pub fn edition(&self) -> u64 {
        self.state().edition
    }

    /// Sleeps until there are more of them than `seen`. False: stopped.
    pub fn await_edition(&self, seen: u64) -> bool {
        let state = self.state();
        let waited = self
            .wake
            .wait_while(state, |state| state.edition == seen && !state.stopped);
        !waited.unwrap_or_else(PoisonError::into_inner).stopped
    }

    /// Ends all waiting.
    pub fn stop(&self) {
        self.state().stopped = true;
        self.wake.notify_all();
    }

    /// Whether [`Inbox::stop`] was called.
    pub fn stopped(&self) -> bool {
        self.state().stopped
    }

    /// Sleeps so long, less when stopped. False: stopped.
    pub fn rest(&self, time: Duration) -> bool {
        let state = self.state();
        let waited = self.wake.wait_timeout_while(state, time, |state| !state.stopped);
        !waited.unwrap_or_else(PoisonError::into_inner).0.stopped
    }

    /// Waits for a change or `time`; after a change waits `gather` more, so that one look serves many events.
    /// False: stopped.
    pub fn wait(&self, time: Duration, gather: Duration) -> bool {
        let state = self.state();
        let waited = self
            .wake
            .wait_timeout_while(state, time, |state| !state.dirty && !state.stopped);
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.stopped {
            return false;
        }
        drop(state);
        timeout.timed_out() || self.rest(gather)
    }

    /// Hands over what came.
    pub fn take(&self) -> Mail {
        let mut state = self.state();
        state.dirty = false;
        state.written.retain(|_, at| at.elapsed() < OPEN_MAX);
        Mail {
            open: state.written.keys().cloned().collect(),
            closed: std::mem::take(&mut state.closed),
        }
    }
}
