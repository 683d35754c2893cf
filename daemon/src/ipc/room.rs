//! Room for large bodies of requests from their first bytes until they are parsed. Invariant: all together, and those of one
//! user, never count for more than their budgets; a user other than the superuser never has more than a share of all of it, and
//! small ones never wait.
use crate::errors::Failure;
use crate::jobs::ROOT;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// Larger bodies than this are counted.
pub const SMALL_BYTES: usize = 64 << 10;
/// What one user's take.
const USER_BYTES: u64 = 64 << 20;
/// What those of all users take, the superuser's among them.
const ALL_BYTES: u64 = 256 << 20;
/// Most bodies are through by then; who still has no room is told to come back.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Budgets of bytes. Cheap to clone.
#[derive(Clone)]
pub struct Room(Arc<Budgets>);

struct Budgets {
    users: Mutex<HashMap<u32, Weak<Semaphore>>>,
    all: Arc<Semaphore>,
    wait_max: Duration,
}

/// The room of one body.
pub struct Held {
    _user: Option<OwnedSemaphorePermit>,
    _all: OwnedSemaphorePermit,
}

impl Default for Room {
    fn default() -> Room {
        Room::new(WAIT_MAX)
    }
}

impl Room {
    /// Empty; who finds it full waits for so long.
    pub fn new(wait_max: Duration) -> Room {
        Room(Arc::new(Budgets {
            users: Mutex::default(),
            all: Arc::new(Semaphore::new(permits(ALL_BYTES, ALL_BYTES) as usize)),
            wait_max,
        }))
    }

    /// Waits for room, and for so long only. A body that is larger than what its user may have counts as all of that.
    pub async fn take(&self, uid: u32, bytes: u64) -> Result<Held, Failure> {
        let until = Instant::now() + self.0.wait_max;
        let (user, most) = match self.of(uid) {
            None => (None, ALL_BYTES),
            Some(user) => {
                let taking = user.acquire_many_owned(permits(bytes, USER_BYTES));
                let Ok(Ok(taken)) = timeout_at(until, taking).await else {
                    return Err(full("your large requests fill", USER_BYTES, "one user may have"));
                };
                (Some(taken), USER_BYTES)
            }
        };
        let taking = Arc::clone(&self.0.all).acquire_many_owned(permits(bytes, most));
        let Ok(Ok(all)) = timeout_at(until, taking).await else {
            return Err(full("large requests of all users fill", ALL_BYTES, "there are"));
        };
        Ok(Held {
            _user: user,
            _all: all,
        })
    }

    /// A user's budget, which is there while something is taken from it; the superuser has none.
    fn of(&self, uid: u32) -> Option<Arc<Semaphore>> {
        if uid == ROOT {
            return None;
        }
        let mut users = self.0.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = users.get(&uid).and_then(Weak::upgrade) {
            return Some(user);
        }
        users.retain(|_, user| user.strong_count() > 0);
        let user = Arc::new(Semaphore::new(permits(USER_BYTES, USER_BYTES) as usize));
        users.insert(uid, Arc::downgrade(&user));
        Some(user)
    }
}

/// A permit stands for a KiB.
fn permits(bytes: u64, budget: u64) -> u32 {
    u32::try_from(bytes.min(budget).div_ceil(1024)).unwrap_or(u32::MAX)
}

fn full(whose: &str, budget: u64, may: &str) -> Failure {
    let mib = budget >> 20;
    Failure::quota(format!(
        "{whose} the {mib} MiB that {may} for requests on their way in; try again in a moment, or send less at once"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyprstream_protocol::ErrorCode;
    use tokio::time::sleep;

    const MIB: u64 = 1 << 20;
    const SOON: Duration = Duration::from_millis(30);

    #[test]
    fn the_manual_tells_the_budgets() {
        let manual = include_str!("../../../man/hyprstreamd.toml.5");
        let (small, user) = (SMALL_BYTES >> 10, USER_BYTES >> 20);
        for line in [
            format!("more than {small} KiB share {user} MiB for each user"),
            format!("{} MiB in all", ALL_BYTES >> 20),
            format!("waits for {} seconds", WAIT_MAX.as_secs()),
            format!("counts as {user} MiB"),
        ] {
            assert!(manual.contains(&line), "{line}");
        }
    }

    #[tokio::test]
    async fn a_user_has_a_share_and_all_have_a_limit() {
        let room = Room::new(SOON);
        let mut held = Vec::new();
        for uid in [7, 8, 9, 10] {
            for _ in 0..USER_BYTES / (8 * MIB) {
                held.push(room.take(uid, 8 * MIB).await.ok());
            }
        }
        assert!(held.iter().all(Option::is_some), "each has a share");
        let code = |result: Result<Held, Failure>| result.err().map(|failure| failure.0.code);
        let began = Instant::now();
        let refused = room.take(7, 8 * MIB).await.err().unwrap().0;
        assert!(began.elapsed() >= SOON);
        assert!(refused.code == ErrorCode::Busy && refused.retry_ms.is_some());
        assert!(refused.message.starts_with("your") && refused.message.contains("64 MiB"));
        let refused = room.take(11, 8 * MIB).await.err().unwrap().0;
        assert!(refused.message.contains("256 MiB"), "{}", refused.message);
        assert_eq!(code(room.take(ROOT, 8 * MIB).await), Some(ErrorCode::Busy));
        held.remove(0);
        assert_eq!(code(room.take(7, 8 * MIB).await), None);
        drop(held);
        let whole = room.take(7, 1 << 40).await;
        assert!(
            whole.is_ok(),
            "one that is larger than the budget counts as all of it"
        );
        assert_eq!(code(room.take(7, MIB).await), Some(ErrorCode::Busy));
        let mut others = Vec::new();
        for uid in [8, 9, 10] {
            others.push(room.take(uid, 1 << 40).await.ok());
        }
        assert!(
            others.iter().all(Option::is_some),
            "one user took what is for all"
        );
        // Four of them fill it, and a fifth waits, who has nothing yet.
        assert_eq!(code(room.take(11, MIB).await), Some(ErrorCode::Busy));
        drop((whole, others));
        let all = room.take(ROOT, 1 << 40).await;
        assert!(all.is_ok());
        assert_eq!(code(room.take(8, MIB).await), Some(ErrorCode::Busy));
    }

    #[tokio::test]
    async fn who_waits_gets_room_when_another_body_is_through() {
        let room = Room::default();
        let held = room
            .take(7, USER_BYTES)
            .await
            .unwrap_or_else(|_| panic!("no room"));
        let waiting = room.clone();
        let waiting = tokio::spawn(async move { waiting.take(7, MIB).await.is_ok() });
        sleep(SOON).await;
        assert!(!waiting.is_finished());
        drop(held);
        assert!(waiting.await.unwrap());
    }
}
