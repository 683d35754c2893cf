//! Copies a file that a caller handed over into the models folder, as a job. Invariant: the copy is on a thread of its
//! own, and a job that is cancelled, or whose owner leaves, ends at once and leaves no file behind, even where that thread
//! waits for a file that never answers.
use super::jobs::{Job, State};
use super::{Door, Properties};
use crate::app::Phase;
use crate::errors::Failure;
use crate::install::{Handed, Held, Incoming, Source, listed};
use hyprstream_protocol::ErrorCode;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use zbus::Variant;

const PIECE_BYTES: usize = 1 << 20;
const NEWS: Duration = Duration::from_millis(250);
/// A piece of the file comes within so long, or the rest is not waited for.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The model is copied; who asks can end that.
const COPYING: u8 = 0;
/// All is there, and is checked and gets its name.
const PLACING: u8 = 1;
/// Nothing is done with it any more.
const ENDED: u8 = 2;

#[derive(Default)]
struct Shared {
    stage: AtomicU8,
    copied: AtomicU64,
}

impl Shared {
    /// Whether the copy is in this stage from now on.
    fn turned(&self, stage: u8) -> bool {
        let turned = self
            .stage
            .compare_exchange(COPYING, stage, Ordering::AcqRel, Ordering::Acquire);
        turned.is_ok()
    }
}

/// Copies, checks, and waits until the model is listed.
pub async fn run(
    door: &Arc<Door>,
    job: &Job,
    source: Handed,
    incoming: Incoming,
    held: Held,
) -> Result<Properties, Failure> {
    let ending = held.ending();
    door.job_moved(job, Some(State::Running), None).await;
    let asked = async {
        tokio::select! {
            () = job.cancelled() => Failure::cancelled(),
            () = ending.wait() => Failure::cancelled(),
            () = door.app.reached(Phase::Ending) => Failure::stopping(),
        }
    };
    let progress = watch::Sender::new(0.0);
    let mut news = progress.subscribe();
    let mut carrying = pin!(carry(source, incoming, asked, progress, SILENCE_MAX));
    let (name, bytes) = loop {
        tokio::select! {
            carried = &mut carrying => break carried?,
            Ok(()) = news.changed() => {
                let share = *news.borrow_and_update();
                door.job_moved(job, None, Some(share)).await;
            }
        }
    };
    listed(&door.app, &name, true).await;
    Ok(Properties::from([
        ("model", Variant::new(name)),
        ("bytes", Variant::new(bytes)),
    ]))
}

/// Copies on another thread, until that is done or `asked` says why not.
async fn carry(
    source: impl Source,
    incoming: Incoming,
    asked: impl Future<Output = Failure>,
    progress: watch::Sender<f64>,
    silence_max: Duration,
) -> Result<(String, u64), Failure> {
    let shared = Arc::new(Shared::default());
    let (bytes, undo) = (source.bytes(), incoming.undo());
    let mut copying = {
        let shared = Arc::clone(&shared);
        tokio::task::spawn_blocking(move || copy(&source, incoming, &shared))
    };
    let mut asked = pin!(asked);
    let (mut last, mut since) = (0, Instant::now());
    let failure = loop {
        tokio::select! {
            copied = &mut copying => {
                return copied.unwrap_or_else(|_| Err(Failure::fault("copying a model broke off")));
            }
            failure = &mut asked => break failure,
            () = tokio::time::sleep(NEWS.min(silence_max)) => {
                let copied = shared.copied.load(Ordering::Relaxed);
                progress.send_replace(copied as f64 / bytes.max(1) as f64);
                if copied > last {
                    (last, since) = (copied, Instant::now());
                }
                if since.elapsed() > silence_max {
                    break silent(silence_max);
                }
            }
        }
    };
    if shared.turned(ENDED) {
        // The thread may hang in the file; it writes nothing that anybody sees.
        let undoing = tokio::task::spawn_blocking(|| undo.now());
        let _ = undoing.await;
        return Err(failure);
    }
    // It is about to be there, which takes no more than our own disk does.
    copying
        .await
        .unwrap_or_else(|_| Err(Failure::fault("copying a model broke off")))
}

fn silent(silence_max: Duration) -> Failure {
    let message = format!(
        "nothing of the file came for {} seconds; it was not installed",
        silence_max.as_secs()
    );
    Failure::new(ErrorCode::BadRequest, message)
}

fn changed() -> Failure {
    let message = "the file changed while it was copied, so it was not installed; try again";
    Failure::new(ErrorCode::BadRequest, message)
}

fn copy(source: &impl Source, mut incoming: Incoming, shared: &Shared) -> Result<(String, u64), Failure> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut at = 0u64;
    loop {
        let count = source.read_at(&mut piece, at)?;
        if shared.stage.load(Ordering::Acquire) == ENDED {
            return Err(Failure::cancelled());
        }
        let Some(bytes @ [_, ..]) = piece.get(..count) else {
            break;
        };
        at = at.saturating_add(count as u64);
        // A file that grows for ever would fill the disk.
        if at > source.bytes() {
            return Err(changed());
        }
        incoming.write(bytes)?;
        shared.copied.store(at, Ordering::Relaxed);
    }
    if at != source.bytes() {
        return Err(changed());
    }
    match shared.turned(PLACING) {
        true => incoming.finish(),
        false => Err(Failure::cancelled()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;
    use std::sync::mpsc::{Receiver, channel};
    use std::sync::{Mutex, PoisonError};

    /// Gives what it is told to, and nothing more until then.
    struct Slow {
        bytes: u64,
        pieces: Mutex<Receiver<Vec<u8>>>,
    }

    impl Source for Slow {
        fn bytes(&self) -> u64 {
            self.bytes
        }

        fn read_at(&self, buffer: &mut [u8], _: u64) -> Result<usize, Failure> {
            let pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
            let piece = pieces.recv().unwrap_or_default();
            buffer[..piece.len()].copy_from_slice(&piece);
            Ok(piece.len())
        }
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    fn unheard() -> watch::Sender<f64> {
        watch::Sender::new(0.0)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_file_that_never_answers_holds_no_job() {
        let folder = tempfile::tempdir().unwrap();
        let (feed, pieces) = channel();
        let source = Slow {
            bytes: 100,
            pieces: Mutex::new(pieces),
        };
        let incoming = Incoming::alone(folder.path(), "m");
        assert_eq!(files(folder.path()), 1);
        let asked = async {
            tokio::time::sleep(SECOND / 20).await;
            Failure::cancelled()
        };
        let carried = carry(source, incoming, asked, unheard(), SILENCE_MAX);
        let ended = tokio::time::timeout(10 * SECOND, carried).await.unwrap();
        assert_eq!(ended.unwrap_err().0.code, ErrorCode::Cancelled);
        assert_eq!(files(folder.path()), 0);
        // What it says afterwards goes nowhere, and the thread ends.
        feed.send(vec![7; 100]).unwrap();
        drop(feed);
        assert_eq!(files(folder.path()), 0);

        let (feed, pieces) = channel();
        let source = Slow {
            bytes: 100,
            pieces: Mutex::new(pieces),
        };
        let incoming = Incoming::alone(folder.path(), "m");
        let carried = carry(source, incoming, std::future::pending(), unheard(), SECOND / 20);
        let ended = tokio::time::timeout(10 * SECOND, carried).await.unwrap();
        assert!(ended.unwrap_err().0.message.contains("nothing of the file came"));
        assert_eq!(files(folder.path()), 0);
        drop(feed);
    }

    #[tokio::test]
    async fn a_file_that_grows_or_shrinks_is_not_installed() {
        let folder = tempfile::tempdir().unwrap();
        for sizes in [vec![60, 60], vec![60]] {
            let (feed, pieces) = channel();
            let source = Slow {
                bytes: 100,
                pieces: Mutex::new(pieces),
            };
            for size in sizes {
                feed.send(vec![7; size]).unwrap();
            }
            drop(feed);
            let incoming = Incoming::alone(folder.path(), "m");
            let asked = std::future::pending();
            let ended = carry(source, incoming, asked, unheard(), SILENCE_MAX).await;
            let message = ended.unwrap_err().0.message;
            assert!(message.contains("changed while it was copied"), "{message}");
            assert_eq!(files(folder.path()), 0);
        }
    }
}
