//! Copies a file that a caller handed over into the models folder, as a job. Invariant: the copy is on a thread of its
//! own, and a job that is cancelled, or whose owner leaves, leaves no file behind.
use super::jobs::{Job, State};
use super::{Door, Properties};
use crate::app::Phase;
use crate::errors::Failure;
use crate::install::{Incoming, Source, listed};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use zbus::Variant;

const PIECE_BYTES: usize = 1 << 20;
const NEWS: Duration = Duration::from_millis(250);

#[derive(Default)]
struct Shared {
    ended: AtomicBool,
    copied: AtomicU64,
}

/// Copies, checks, and waits until the model is listed.
pub async fn run(
    door: &Arc<Door>,
    job: &Job,
    source: Source,
    incoming: Incoming,
) -> Result<Properties, Failure> {
    let shared = Arc::new(Shared::default());
    let ending = incoming.ending();
    let bytes = source.bytes();
    let mut copying = {
        let shared = Arc::clone(&shared);
        tokio::task::spawn_blocking(move || copy(&source, incoming, &shared))
    };
    door.job_moved(job, Some(State::Running), None).await;
    let mut asked = Box::pin(async {
        tokio::select! {
            () = job.cancelled() => Failure::cancelled(),
            () = ending.wait() => Failure::cancelled(),
            () = door.app.reached(Phase::Ending) => Failure::stopping(),
        }
    });
    let mut why = None;
    let copied = loop {
        tokio::select! {
            copied = &mut copying => break copied,
            failure = &mut asked, if why.is_none() => {
                shared.ended.store(true, Ordering::Release);
                why = Some(failure);
            }
            () = tokio::time::sleep(NEWS) => {
                let share = shared.copied.load(Ordering::Relaxed) as f64 / bytes.max(1) as f64;
                door.job_moved(job, None, Some(share)).await;
            }
        }
    };
    let copied = copied.unwrap_or_else(|_| Err(Failure::fault("copying a model broke off")));
    let (name, bytes) = copied.map_err(|failure| why.unwrap_or(failure))?;
    listed(&door.app, &name, true).await;
    Ok(Properties::from([
        ("model", Variant::new(name)),
        ("bytes", Variant::new(bytes)),
    ]))
}

fn copy(source: &Source, mut incoming: Incoming, shared: &Shared) -> Result<(String, u64), Failure> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0u64;
    loop {
        if shared.ended.load(Ordering::Acquire) {
            return Err(Failure::cancelled());
        }
        let count = source.read_at(&mut piece, at)?;
        let Some(bytes @ [_, ..]) = piece.get(..count) else {
            return incoming.finish();
        };
        incoming.write(bytes)?;
        at = at.saturating_add(count as u64);
        shared.copied.store(at, Ordering::Relaxed);
    }
}
