//! Decides when a candidate has become a model. Invariant: a file is listed only when its header and length are right
//! and nobody writes it any more, and listed as broken only when it has been quiet for a while.
use super::entry::{Content, Entry, Identity};
use super::inbox::Mail;
use super::scan::Candidate;
use hyprstream_model::Summary;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// A file that was not seen to be closed is looked into after so long without a change.
const LOOK_AFTER: Duration = Duration::from_millis(300);
/// A bad file that did not change for so long is not about to become a good one.
const QUIET: Duration = Duration::from_secs(1);

/// Reads a model's header, or says why it cannot be used.
pub type Inspect = fn(&Path) -> Result<Summary, String>;

/// What is known of every candidate, by path.
pub struct Settle {
    inspect: Inspect,
    known: HashMap<PathBuf, Known>,
}

struct Known {
    identity: Identity,
    ctime_ns: i128,
    /// When this content was first seen.
    since: Instant,
    content: Option<Content>,
}

/// What [`Settle::judge`] finds.
pub struct Settled {
    /// Models and broken files.
    pub entries: Vec<Entry>,
    /// Some candidates need another look soon.
    pub waiting: bool,
}

impl Settle {
    /// Nothing is known at first.
    pub fn new(inspect: Inspect) -> Settle {
        Settle {
            inspect,
            known: HashMap::new(),
        }
    }

    /// Judges all candidates of one walk.
    pub fn judge(&mut self, candidates: Vec<Candidate>, mail: &Mail) -> Settled {
        let mut settled = Settled {
            entries: Vec::new(),
            waiting: false,
        };
        let mut before = std::mem::take(&mut self.known);
        for candidate in candidates {
            let mut known = match before.remove(&candidate.path) {
                Some(known) if known.identity == candidate.identity => known,
                _ => Known::new(&candidate),
            };
            match known.judge(&candidate, mail, self.inspect) {
                Some(content) => settled.entries.push(entry(&candidate, content)),
                None => settled.waiting = true,
            }
            self.known.insert(candidate.path, known);
        }
        settled
    }
}

impl Known {
    fn new(candidate: &Candidate) -> Known {
        // Old files were quiet before this daemon started; so were those from the future, by a clock that was set back.
        let age = SystemTime::now()
            .duration_since(candidate.modified)
            .unwrap_or(QUIET);
        let since = Instant::now()
            .checked_sub(age.min(QUIET))
            .unwrap_or_else(Instant::now);
        Known {
            identity: candidate.identity,
            ctime_ns: candidate.ctime_ns,
            since,
            content: None,
        }
    }

    /// `None`: not settled yet.
    fn judge(&mut self, candidate: &Candidate, mail: &Mail, inspect: Inspect) -> Option<Content> {
        if let Some(reason) = &candidate.broken {
            return Some(Content::Broken(reason.clone()));
        }
        if candidate.files.iter().any(|file| mail.open.contains(file)) {
            // The kernel told of a write and not of the close: whatever the file says now may change.
            self.content = None;
            return None;
        }
        match &self.content {
            Some(Content::Broken(_)) if self.ctime_ns != candidate.ctime_ns => {
                self.ctime_ns = candidate.ctime_ns
            }
            Some(content) => return Some(content.clone()),
            None => {}
        }
        let closed = candidate.files.iter().any(|file| mail.closed.contains(file));
        if !closed && self.since.elapsed() < LOOK_AFTER {
            return None;
        }
        let content = match inspect(&candidate.path) {
            Ok(summary) => Content::Usable(Arc::new(summary)),
            Err(_) if self.since.elapsed() < QUIET => return None,
            Err(error) => {
                tracing::warn!(model = %candidate.name, "not usable: {error}");
                Content::Broken(error)
            }
        };
        self.content = Some(content.clone());
        Some(content)
    }
}

fn entry(candidate: &Candidate, content: Content) -> Entry {
    Entry {
        name: candidate.name.clone(),
        path: candidate.path.clone(),
        files: candidate.files.clone(),
        identity: candidate.identity,
        bytes: candidate.bytes,
        modified: candidate.modified,
        starter: candidate.starter,
        content,
        digest: None,
    }
}

/// Says once for each path that it is skipped; the folders are walked again and again.
pub fn warn_once(path: &Path, why: &str) {
    static SAID: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let said = said.get_or_insert_default();
    if said.len() < 1000 && said.insert(path.to_owned()) {
        tracing::warn!("{path:?} is skipped: {why}");
    }
}
