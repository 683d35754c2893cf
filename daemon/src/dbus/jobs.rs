//! Work that takes its time, as an object: state, progress, result, cancel. Invariant: a job is seen by its owner's uid
//! and the superuser alone, ends exactly once, and is forgotten a while after that or when its owner leaves the bus.
use super::clients::Client;
use super::refusal::{Refusal, error_name};
use super::{Door, Properties};
use crate::errors::Failure;
use hyprstream_protocol::{ErrorBody, ErrorCode, Event};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use zbus::Variant;

/// The interface of a job.
pub const JOB: &str = "org.hyprstream.Job1";
/// Where jobs are.
pub const JOBS_PATH: &str = "/org/hyprstream/Daemon1/jobs";
/// A job that is over can be looked at for so long.
const KEPT: Duration = Duration::from_secs(30);
/// So many of one user's are kept; beyond them the one goes that ended first.
const KEPT_PER_USER_MAX: usize = 64;
/// Jobs of one user that are not over.
pub const PER_USER_MAX: usize = 256;
/// Progress is told so often at most.
const NEWS: Duration = Duration::from_millis(250);

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for its model.
    Loading,
    /// It waits for its turn.
    Queued,
    /// It runs.
    Running,
    /// It came to its end.
    Done,
    /// It did not; there is an error.
    Failed,
    /// Somebody ended it, or nobody listened.
    Cancelled,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Loading => "loading",
            State::Queued => "queued",
            State::Running => "running",
            State::Done => "done",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    fn is_over(self) -> bool {
        matches!(self, State::Done | State::Failed | State::Cancelled)
    }
}

/// One job.
pub struct Job {
    /// Its object; the last part is its id, as in `hyp ps` and the journal.
    pub path: String,
    /// Who started it.
    pub owner: Arc<Client>,
    kind: &'static str,
    model: String,
    cancel: watch::Sender<bool>,
    now: Mutex<Now>,
}

struct Now {
    state: State,
    progress: f64,
    error: Option<Failure>,
    result: Properties,
    told: Option<Instant>,
    ended: Option<Instant>,
}

impl Job {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks it to end.
    pub fn cancel(&self) {
        self.cancel.send_replace(true);
    }

    /// Returns when it was asked to end.
    pub async fn cancelled(&self) {
        let mut asked = self.cancel.subscribe();
        // It fails only when the sender is gone, and that is a part of this.
        let _ = asked.wait_for(|asked| *asked).await;
    }

    /// What it shows.
    pub fn properties(&self) -> Properties {
        let now = self.now();
        let mut all = changing(&now);
        all.insert("Kind", Variant::new(self.kind));
        all.insert("Model", Variant::new(self.model.clone()));
        all.insert("Owner", Variant::new(self.owner.uid));
        all
    }
}

/// The properties that change.
fn changing(now: &Now) -> Properties {
    let (name, message) = now.error.as_ref().map_or_else(Default::default, |failure| {
        (error_name(failure.0.code), failure.0.message.clone())
    });
    let result: Vec<_> = now
        .result
        .iter()
        .filter_map(|(name, value)| Some(((*name).to_owned(), value.try_clone().ok()?)))
        .collect();
    let result: std::collections::HashMap<String, Variant<'static>> = result.into_iter().collect();
    Properties::from([
        ("State", Variant::new(now.state.as_str())),
        ("Progress", Variant::new(now.progress)),
        ("Error", Variant::new((name, message))),
        ("Result", Variant::new(result)),
    ])
}

impl Door {
    /// Enters a job and tells its owner. `id` should be new; one that is taken is refused.
    pub async fn enter_job(
        &self,
        owner: &Arc<Client>,
        id: &str,
        kind: &'static str,
        model: &str,
    ) -> Result<Arc<Job>, Failure> {
        let job = Arc::new(Job {
            path: format!("{JOBS_PATH}/{}", super::objects::escape(id)),
            owner: Arc::clone(owner),
            kind,
            model: model.to_owned(),
            cancel: watch::Sender::new(false),
            now: Mutex::new(Now {
                state: State::Queued,
                progress: 0.0,
                error: None,
                result: Properties::new(),
                told: None,
                ended: None,
            }),
        });
        {
            let mut objects = self.objects();
            // Looked at under the lock, which whoever forgets the client takes too.
            if owner.is_gone() {
                return Err(Failure::cancelled());
            }
            let held = objects.jobs.values().filter(|job| job.owner.uid == owner.uid);
            let held = held.filter(|job| job.now().ended.is_none());
            if held.count() >= PER_USER_MAX {
                let message = format!(
                    "you have {PER_USER_MAX} jobs at work already; wait for one to end, or cancel one"
                );
                return Err(Failure(
                    ErrorBody::new(ErrorCode::Busy, message).retry_after_ms(1_000),
                ));
            }
            if objects.jobs.contains_key(&job.path) {
                return Err(Failure::fault("two jobs with one id"));
            }
            objects.jobs.insert(job.path.clone(), Arc::clone(&job));
        }
        let properties = job.properties();
        self.added(Some(owner), &job.path, JOB, &properties).await;
        Ok(job)
    }

    /// Follows what happens to a job.
    pub async fn job_heard(&self, job: &Job, event: &Event, tokens_max: Option<u32>, tokens: u32) {
        let (state, progress) = match event {
            Event::Loading { progress, .. } => (Some(State::Loading), progress.map(f64::from)),
            Event::Queued { .. } => (Some(State::Queued), None),
            Event::Started { .. } => (Some(State::Running), None),
            Event::Token(_) => {
                let share = tokens_max.map(|max| f64::from(tokens) / f64::from(max.max(1)));
                (None, share)
            }
            _ => return,
        };
        self.job_moved(job, state, progress).await;
    }

    /// Sets where a job stands, and tells its owner unless that was just done.
    pub async fn job_moved(&self, job: &Job, state: Option<State>, progress: Option<f64>) {
        let news = {
            let mut now = job.now();
            let state = state.filter(|state| *state != now.state);
            now.state = state.unwrap_or(now.state);
            now.progress = progress.map_or(now.progress, |share| share.clamp(0.0, 1.0));
            let recent = now.told.is_some_and(|told| told.elapsed() < NEWS);
            if state.is_none() && (recent || progress.is_none()) {
                return;
            }
            now.told = Some(Instant::now());
            let mut news = changing(&now);
            news.retain(|name, _| matches!(*name, "State" | "Progress"));
            news
        };
        self.changed(Some(&job.owner), &job.path, JOB, &news).await;
    }

    /// Ends a job, and forgets it after a while.
    pub async fn job_over(self: &Arc<Self>, job: &Arc<Job>, end: Result<Properties, Failure>) {
        let news = {
            let mut now = job.now();
            if now.state.is_over() {
                return;
            }
            match end {
                Ok(result) => (now.state, now.progress, now.result) = (State::Done, 1.0, result),
                Err(failure) => {
                    now.state = match failure.0.code {
                        ErrorCode::Cancelled => State::Cancelled,
                        _ => State::Failed,
                    };
                    now.error = Some(failure);
                }
            }
            now.ended = Some(Instant::now());
            changing(&now)
        };
        self.changed(Some(&job.owner), &job.path, JOB, &news).await;
        for oldest in self.crowded_out(job.owner.uid) {
            self.removed(Some(&oldest.owner), &oldest.path, JOB).await;
        }
        let (door, job) = (Arc::downgrade(self), Arc::clone(job));
        tokio::spawn(async move {
            tokio::time::sleep(KEPT).await;
            if let Some(door) = door.upgrade()
                && door.objects().jobs.remove(&job.path).is_some()
            {
                door.removed(Some(&job.owner), &job.path, JOB).await;
            }
        });
    }
}

impl Door {
    /// Forgets the jobs of a user that ended first, where too many are kept.
    fn crowded_out(&self, uid: u32) -> Vec<Arc<Job>> {
        let mut objects = self.objects();
        let theirs = objects.jobs.values().filter(|job| job.owner.uid == uid);
        let mut over: Vec<_> = theirs
            .filter_map(|job| Some((job.now().ended?, Arc::clone(job))))
            .collect();
        over.sort_by_key(|(ended, _)| *ended);
        let many = over.len().saturating_sub(KEPT_PER_USER_MAX);
        let oldest: Vec<_> = over.into_iter().take(many).map(|(_, job)| job).collect();
        for job in &oldest {
            objects.jobs.remove(&job.path);
        }
        oldest
    }
}

/// A method of a job.
pub async fn method(call: &super::Call, job: &Job) -> Result<(), Refusal> {
    match call.member.as_str() {
        "Cancel" => {
            call.no_args()?;
            job.cancel();
            call.reply(&()).await;
            Ok(())
        }
        _ => Err(Refusal::unknown_method(&call.path, &call.member)),
    }
}
