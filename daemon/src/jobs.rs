//! What is at work, for `hyp ps` and `hyp cancel`. Invariant: a user sees and ends only what is their own; the superuser
//! sees and ends all.
use crate::config::Limits;
use crate::errors::Failure;
use hyprstream_engine::Progress;
use hyprstream_protocol::{Job, JobKind, JobState};
use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// The superuser, whom no quota binds.
pub const ROOT: u32 = 0;

/// An id that nobody can guess: std seeds this hasher from the system's random numbers.
pub fn new_id() -> String {
    let number = || RandomState::new().build_hasher().finish();
    format!("{:08x}{:08x}", number() as u32, number() as u32)
}

/// By user and id: whether another user has a job of this id is nobody's business.
type Table = BTreeMap<(u32, String), Arc<Entry>>;

/// All jobs. Cheap to clone.
#[derive(Clone, Default)]
pub struct Jobs {
    table: Arc<Mutex<Table>>,
    counter: Arc<AtomicU64>,
}

struct Entry {
    order: u64,
    id: String,
    kind: JobKind,
    model: String,
    uid: u32,
    since: Instant,
    progress: Arc<Progress>,
    ended: watch::Sender<bool>,
    /// Prompt tokens on their way to the engine, or in its queue.
    submitted: AtomicUsize,
}

/// A job as its client's side holds it. When it is dropped the job is over, and whatever still computes for it ends.
pub struct Running {
    jobs: Jobs,
    entry: Arc<Entry>,
}

impl Jobs {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, unless the user has as many as one may. The superuser may have any number.
    pub fn enter_within(
        &self,
        limits: &Limits,
        id: &str,
        kind: JobKind,
        model: &str,
        uid: u32,
    ) -> Result<Running, Failure> {
        let max = limits.user_requests_max;
        let job = self.enter(id, kind, model, uid);
        let held = self.table().values().filter(|entry| entry.uid == uid).count();
        if uid != ROOT && held > max {
            return Err(Failure::quota(format!(
                "you have {max} requests at work, as many as one user may ([limits] user_requests_max); let one end"
            )));
        }
        Ok(job)
    }

    /// Enters a job. An id that its user has already gets an ending: the second of two requests must not hide the first.
    pub fn enter(&self, id: &str, kind: JobKind, model: &str, uid: u32) -> Running {
        let order = self.counter.fetch_add(1, Ordering::Relaxed);
        let mut table = self.table();
        let mut key = (uid, id.to_owned());
        if table.contains_key(&key) {
            key.1 = format!("{id}.{}", new_id());
        }
        let entry = Arc::new(Entry {
            order,
            id: key.1.clone(),
            kind,
            model: model.to_owned(),
            uid,
            since: Instant::now(),
            progress: Arc::new(Progress::new()),
            ended: watch::Sender::new(false),
            submitted: AtomicUsize::new(0),
        });
        table.insert(key, Arc::clone(&entry));
        drop(table);
        Running {
            jobs: self.clone(),
            entry,
        }
    }

    /// Takes a job off the table; another one may have its id by now.
    fn leave(&self, entry: &Arc<Entry>) {
        let mut table = self.table();
        let key = (entry.uid, entry.id.clone());
        if table.get(&key).is_some_and(|there| Arc::ptr_eq(there, entry)) {
            table.remove(&key);
        }
    }

    /// How many are at work.
    pub fn len(&self) -> usize {
        self.table().len()
    }

    /// How many of a user's run, and how many wait for their model or their turn.
    pub fn count(&self, uid: u32) -> (usize, usize) {
        let table = self.table();
        let theirs = || table.values().filter(|entry| entry.uid == uid);
        let runs = |entry: &&Arc<Entry>| entry.progress.state() == JobState::Running;
        let running = theirs().filter(runs).count();
        (running, theirs().count() - running)
    }

    /// What this user may see, oldest first.
    pub fn list(&self, uid: u32) -> Vec<Job> {
        let mut entries: Vec<_> = self.table().values().filter(|e| may(uid, e)).cloned().collect();
        entries.sort_by_key(|entry| entry.order);
        entries.iter().map(|entry| entry.describe()).collect()
    }

    /// Ends a job of this user; of the superuser, everybody's of this id.
    pub fn cancel(&self, id: &str, uid: u32) -> Result<(), Failure> {
        let table = self.table();
        let entries = table.values().filter(|entry| entry.id == id && may(uid, entry));
        let entries: Vec<_> = entries.cloned().collect();
        drop(table);
        for entry in &entries {
            entry.progress.cancel();
            entry.ended.send_replace(true);
        }
        match entries.is_empty() {
            true => Err(Failure::no_such_job(id)),
            false => Ok(()),
        }
    }
}

fn may(uid: u32, entry: &Entry) -> bool {
    uid == ROOT || uid == entry.uid
}

impl Entry {
    fn describe(&self) -> Job {
        Job {
            id: self.id.clone(),
            kind: self.kind,
            state: self.progress.state(),
            model: self.model.clone(),
            uid: self.uid,
            age_ms: self.since.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
            prompt_tokens: self.progress.prompt_tokens(),
            completion_tokens: self.progress.completion_tokens(),
        }
    }
}

impl Running {
    /// The job's id.
    pub fn id(&self) -> &str {
        &self.entry.id
    }

    /// Its model.
    pub fn model(&self) -> &str {
        &self.entry.model
    }

    /// Whose it is.
    pub fn uid(&self) -> u32 {
        self.entry.uid
    }

    /// What the engine reports to.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.entry.progress
    }

    /// The job as the engine's side holds it: over for `hyp ps` when that is done, whether or not the client reads on.
    pub fn at_work(&self) -> AtWork {
        AtWork {
            jobs: self.jobs.clone(),
            entry: Arc::clone(&self.entry),
        }
    }

    /// A way to wait for `cancel` that does not keep the job alive.
    pub fn ending(&self) -> Ending {
        Ending(Arc::clone(&self.entry))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.entry.progress.cancel();
        self.jobs.leave(&self.entry);
    }
}

/// A job as the engine's side holds it.
pub struct AtWork {
    jobs: Jobs,
    entry: Arc<Entry>,
}

impl AtWork {
    /// Counts the prompt's tokens as waiting until the job runs, unless its user has too many that wait. A prompt is never
    /// too long by itself.
    pub fn submit(&self, limits: &Limits, tokens: usize) -> Result<(), Failure> {
        let (uid, max) = (self.entry.uid, limits.user_queued_tokens_max);
        let table = self.jobs.table();
        let waits = |entry: &&Arc<Entry>| entry.uid == uid && entry.progress.state() != JobState::Running;
        let others = table.values().filter(waits);
        let others: usize = others.map(|entry| entry.submitted.load(Ordering::Relaxed)).sum();
        if uid != ROOT && others > 0 && others.saturating_add(tokens) > max {
            return Err(Failure::quota(format!(
                "{others} tokens of your prompts wait already, and one user may have {max} waiting \
                 ([limits] user_queued_tokens_max); let some be answered"
            )));
        }
        self.entry.submitted.store(tokens, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.jobs.leave(&self.entry);
    }
}

/// Waits for the end that somebody else makes.
pub struct Ending(Arc<Entry>);

impl Ending {
    /// Returns when the job is cancelled.
    pub async fn wait(&self) {
        let mut ended = self.0.ended.subscribe();
        // It fails only when the sender is gone, and that is a part of this.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_see_and_end_only_their_own() {
        let jobs = Jobs::default();
        let mine = jobs.enter("a", JobKind::Chat, "m", 7);
        let theirs = jobs.enter("b", JobKind::Score, "m", 8);
        let ids = |uid| jobs.list(uid).into_iter().map(|job| job.id).collect::<Vec<_>>();
        assert_eq!(
            (ids(7), ids(8), ids(0)),
            (vec!["a".into()], vec!["b".into()], vec!["a".into(), "b".into()])
        );
        let foreign = jobs.cancel("b", 7).unwrap_err().0.message;
        let unknown = jobs.cancel("c", 7).unwrap_err().0.message;
        assert_eq!(foreign.replace("\"b\"", "X"), unknown.replace("\"c\"", "X"));
        assert!(!theirs.progress().is_cancelled());
        assert_eq!((jobs.count(7), jobs.count(9)), ((0, 1), (0, 0)));
        jobs.cancel("a", 7).unwrap();
        assert!(mine.progress().is_cancelled());
        jobs.cancel("b", 0).unwrap();
        drop(mine);
        assert_eq!(jobs.len(), 1);
    }

    #[test]
    fn one_user_has_so_many_requests_and_waiting_tokens() {
        let place = crate::config::Place::system();
        let mut limits = crate::config::Config::defaults(&place).limits;
        (limits.user_requests_max, limits.user_queued_tokens_max) = (2, 100);
        let jobs = Jobs::default();
        let enter = |uid| jobs.enter_within(&limits, "x", JobKind::Chat, "m", uid);
        let held = [enter(7).unwrap(), enter(7).unwrap()];
        let error = enter(7).map(drop).unwrap_err().0;
        assert_eq!(error.code, hyprstream_protocol::ErrorCode::Busy);
        assert!(error.retry_ms.is_some() && error.message.contains("user_requests_max"));
        assert_eq!(jobs.len(), 2, "a refused one leaves nothing behind");
        let other = enter(8).unwrap();
        let root: Vec<_> = (0..9).map(|_| enter(0).unwrap()).collect();

        held[0].at_work().submit(&limits, 500).unwrap();
        let waiting = [enter(9).unwrap(), enter(9).unwrap()];
        let works = waiting.each_ref().map(Running::at_work);
        works[0].submit(&limits, 60).unwrap();
        let error = works[1].submit(&limits, 41).unwrap_err().0;
        assert!(
            error.message.contains("60") && error.message.contains("100"),
            "{error:?}"
        );
        works[1].submit(&limits, 40).unwrap();
        other.at_work().submit(&limits, 100).unwrap();
        drop((held, root));
    }

    #[test]
    fn a_taken_id_gets_an_ending() {
        let jobs = Jobs::default();
        let first = jobs.enter("same", JobKind::Chat, "m", 7);
        let second = jobs.enter("same", JobKind::Chat, "m", 7);
        assert_eq!(first.id(), "same");
        assert_ne!(second.id(), "same");
        let foreign = jobs.enter("same", JobKind::Chat, "m", 8);
        assert_eq!(foreign.id(), "same", "what others have is not to be told");
        jobs.cancel("same", 8).unwrap();
        assert!(foreign.progress().is_cancelled() && !first.progress().is_cancelled());
        drop((second, foreign));
        assert_eq!(jobs.list(7).len(), 1);
        drop(first.at_work());
        let third = jobs.enter("same", JobKind::Chat, "m", 7);
        drop(first);
        assert_eq!((third.id(), jobs.len()), ("same", 1));
    }
}
