//! How the threads of a pool share cores with other programs.
//!
//! Invariant: where nobody else computes, all that happens here is that workers keep off the caller's core. Threads that
//! wake up for a moment now and then, such as those that read the answers, do not count: resting for them costs far more than
//! they take.
//!
//! Workers keep off the caller's core because woken there they would take it from the caller, which then waits for them;
//! and the kernel leaves two threads that take turns on one core while another program has the other core alone. With as
//! many threads as cores, or fewer, each still has a core.
//!
//! A worker that loses its core inside a piece holds everybody up until it gets the core back, which takes
//! milliseconds. So a worker that keeps losing its core works in short bursts for a while and rests after each for a
//! little longer, outside of runs, where the others can go on without it; the other program then has no reason to take the
//! core at a bad time.
//!
//! The caller cannot rest. If it loses its core now and then, it takes over the core of a worker that loses nothing, which
//! then has to go where the others are. If it loses its core often, workers do not rest: what they would leave to others
//! they would lose again while the caller is off, and all threads do best to work whenever the caller does.
//!
//! In a virtual machine cores also stand still because the host took them. No rest helps against that, so what counts is
//! the time for which the kernel let another thread go first. Where a kernel does not tell, nobody rests or moves.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// How long a worker goes without a rest while others want its core, gaps between runs included: shorter than a tick of any
/// kernel, since at ticks cores are taken away.
const BURST: Duration = Duration::from_millis(1);

/// How long it rests then: long enough that it has used less than its share, so that it need not wait when it wakes up.
const REST: Duration = Duration::from_micros(1200);

/// How long it goes on so after it lost its core: at first, and at most. Then it tries to work without rests. Each try
/// that fails doubles the time to the next.
const COURTEOUS_MIN: Duration = Duration::from_millis(500);
const COURTEOUS_MAX: Duration = Duration::from_secs(8);

/// Time between two looks at what the kernel counts.
const LOOK: Duration = Duration::from_millis(1);

/// Out of work for so long, a worker may have slept.
const NAP: Duration = Duration::from_micros(100);

/// Over how much time losses are judged; then they are halved, so that what is long past weighs little.
const WINDOW: Duration = Duration::from_millis(100);

/// What a worker may lose of its time, in percent. Another program that computes takes half; requests that come in and
/// readers of answers take a few hundredths, in slices as long. Resting costs more than half of what a worker does.
const WORKER_RESTS: u32 = 20;

/// What the caller may lose of its time, in percent, before it looks for another core, and before it counts as crowded.
const CALLER_MOVES: u32 = 10;
const CALLER_CROWDED: u32 = 25;

/// No core.
const NONE: usize = usize::MAX;

/// What the threads of a pool tell each other.
pub(super) struct Crowd {
    caller_core: AtomicUsize,
    /// Others want the caller's core as well.
    crowded: AtomicBool,
    /// A worker's core that nobody else wants.
    calm_core: AtomicUsize,
}

impl Crowd {
    pub(super) fn new() -> Crowd {
        Crowd {
            caller_core: AtomicUsize::new(NONE),
            crowded: AtomicBool::new(false),
            calm_core: AtomicUsize::new(NONE),
        }
    }
}

thread_local! {
    static METER: RefCell<Meter> = RefCell::new(Meter::new());
}

/// What the kernel counts for one thread.
struct Meter {
    schedstat: Option<File>,
    seen: Times,
}

#[derive(Clone, Copy, Default)]
struct Times {
    /// On a core.
    ran: Duration,
    /// Ready, while another thread had the core.
    waited: Duration,
}

impl Meter {
    fn new() -> Meter {
        let mut meter = Meter {
            schedstat: File::open("/proc/thread-self/schedstat").ok(),
            seen: Times::default(),
        };
        meter.since_last();
        meter
    }

    /// Since the last look; `None` if this kernel does not count.
    fn since_last(&mut self) -> Option<Times> {
        let mut text = [0; 80];
        let len = self.schedstat.as_ref()?.read_at(&mut text, 0).ok()?;
        // Nanoseconds on a core, nanoseconds in the queue, times on a core.
        let mut fields = std::str::from_utf8(text.get(..len)?).ok()?.split_whitespace();
        let mut next = || Some(Duration::from_nanos(fields.next()?.parse().ok()?));
        let now = Times {
            ran: next()?,
            waited: next()?,
        };
        let before = std::mem::replace(&mut self.seen, now);
        Some(Times {
            ran: now.ran.saturating_sub(before.ran),
            waited: now.waited.saturating_sub(before.waited),
        })
    }
}

/// One worker's manners.
pub(super) struct Worker {
    looked: Instant,
    /// When it last left a run.
    left: Instant,
    /// When its burst began: after the last rest, or after the last run in which it was not courteous.
    began: Instant,
    /// Until when it works in bursts.
    until: Option<Instant>,
    courteous: Duration,
    /// Of late.
    worked: Duration,
    lost: Duration,
    place: Place,
}

impl Worker {
    pub(super) fn new() -> Worker {
        let now = Instant::now();
        Worker {
            looked: now,
            left: now,
            began: now,
            until: None,
            courteous: COURTEOUS_MIN,
            worked: Duration::ZERO,
            lost: Duration::ZERO,
            place: Place::default(),
        }
    }

    /// Before a run.
    pub(super) fn starts(&mut self, crowd: &Crowd) {
        if self.left.elapsed() > NAP {
            // What it took to wake up says little: a core that was idle wakes up late on a busy host.
            METER.with_borrow_mut(Meter::since_last);
        }
        self.place.keep_off(crowd.caller_core.load(Ordering::Relaxed));
    }

    /// After a piece: whether to take another.
    pub(super) fn goes_on(&mut self, crowd: &Crowd) -> bool {
        let now = Instant::now();
        if now - self.looked < LOOK {
            return true;
        }
        self.looked = now;
        if let Some(times) = METER.with_borrow_mut(Meter::since_last) {
            self.notes(&times, now);
        }
        let core = sched_getcpu();
        if !self.is_courteous(now) && self.lost < self.worked / 10 {
            crowd.calm_core.store(core, Ordering::Relaxed);
        } else {
            let calm = &crowd.calm_core;
            let _ = calm.compare_exchange(core, NONE, Ordering::Relaxed, Ordering::Relaxed);
        }
        !self.wants_rest(crowd, now)
    }

    /// After a run.
    pub(super) fn ends(&mut self, crowd: &Crowd) {
        let now = Instant::now();
        self.left = now;
        if self.is_due(crowd, now) {
            thread::sleep(REST);
            self.began = Instant::now();
        }
    }

    /// Whether a rest is due. Where none will be, the burst begins anew.
    fn is_due(&mut self, crowd: &Crowd, now: Instant) -> bool {
        if !self.is_courteous(now) {
            self.began = now;
        }
        self.wants_rest(crowd, now)
    }

    fn wants_rest(&self, crowd: &Crowd, now: Instant) -> bool {
        self.is_courteous(now) && now - self.began >= BURST && !crowd.crowded.load(Ordering::Relaxed)
    }

    fn is_courteous(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    fn notes(&mut self, times: &Times, now: Instant) {
        if self.is_courteous(now) {
            // It learns nothing now: a try will tell whether the other program is still there.
            return;
        }
        self.worked += times.ran;
        self.lost += times.waited;
        let both = self.worked + self.lost;
        // A try should be short where it fails.
        let tries = self.until.is_some_and(|until| now - until < WINDOW);
        if both < if tries { WINDOW / 3 } else { WINDOW } {
            return;
        }
        if self.lost * 100 > both * WORKER_RESTS {
            (self.worked, self.lost) = (Duration::ZERO, Duration::ZERO);
            self.loses(now);
        } else {
            self.worked /= 2;
            self.lost /= 2;
        }
    }

    fn loses(&mut self, now: Instant) {
        if let Some(until) = self.until {
            let failed = now - until < self.courteous;
            let doubled = (2 * self.courteous).min(COURTEOUS_MAX);
            self.courteous = if failed { doubled } else { COURTEOUS_MIN };
        }
        self.until = Some(now + self.courteous);
    }
}

/// The cores that a worker may use.
#[derive(Default)]
struct Place {
    off: Option<usize>,
    /// All that it had, and what it has been left.
    all: Option<CpuSet>,
    left: Option<CpuSet>,
}

impl Place {
    fn keep_off(&mut self, core: usize) {
        if self.off == Some(core) {
            return;
        }
        self.off = Some(core);
        let Ok(now) = sched_getaffinity(None) else { return };
        if self.left != Some(now) {
            // Somebody gave this thread other cores since.
            self.all = Some(now);
        }
        let mut left = self.all.unwrap_or(now);
        if core < CpuSet::MAX_CPU {
            left.unset(core);
        }
        // Refused where it would leave no core: then the worker stays where it may be.
        if sched_setaffinity(None, &left).is_ok() {
            self.left = Some(left);
        }
    }
}

/// How crowded the caller's core is.
pub(super) struct Caller {
    looked: Instant,
    /// On its core or waiting for it, of late; and waiting.
    worked: Duration,
    lost: Duration,
}

impl Caller {
    pub(super) fn new() -> Caller {
        Caller {
            looked: Instant::now(),
            worked: Duration::ZERO,
            lost: Duration::ZERO,
        }
    }

    /// Before a run.
    pub(super) fn starts(&mut self, crowd: &Crowd) {
        crowd.caller_core.store(sched_getcpu(), Ordering::Relaxed);
    }

    /// When no pieces are left to take.
    pub(super) fn ends(&mut self, crowd: &Crowd) {
        let now = Instant::now();
        if now - self.looked < WINDOW / 10 {
            return;
        }
        self.looked = now;
        let Some(times) = METER.with_borrow_mut(Meter::since_last) else {
            return;
        };
        self.lost += times.waited;
        self.worked += times.waited + times.ran;
        if self.worked > WINDOW / 2 {
            let crowded = self.lost * 100 > self.worked * CALLER_CROWDED;
            crowd.crowded.store(crowded, Ordering::Relaxed);
            if self.lost * 100 > self.worked * CALLER_MOVES {
                go_to(crowd.calm_core.load(Ordering::Relaxed));
            }
            self.lost /= 2;
            self.worked /= 2;
        }
    }
}

/// Moves this thread to a core, if it may be there. It stays free to leave.
fn go_to(core: usize) {
    let Ok(all) = sched_getaffinity(None) else { return };
    if core >= CpuSet::MAX_CPU || !all.is_set(core) || core == sched_getcpu() {
        return;
    }
    let mut there = CpuSet::new();
    there.set(core);
    if sched_setaffinity(None, &there).is_ok() {
        // If this fails the thread is left one core of those that it had, where it now works best.
        let _ = sched_setaffinity(None, &all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Works from `now` on for `ms` milliseconds, `lost` of each three being lost if the worker does not rest. Returns
    /// the time after it and how long it rested.
    fn works(
        worker: &mut Worker,
        crowd: &Crowd,
        mut now: Instant,
        ms: u32,
        lost: Duration,
    ) -> (Instant, Duration) {
        let mut rested = Duration::ZERO;
        let end = now + ms * MS;
        while now < end {
            now += 3 * MS;
            let waited = if worker.is_courteous(now) {
                Duration::ZERO
            } else {
                lost
            };
            worker.notes(
                &Times {
                    ran: 3 * MS - waited,
                    waited,
                },
                now,
            );
            if worker.is_due(crowd, now) {
                now += REST;
                rested += REST;
                worker.began = now;
            }
        }
        (now, rested)
    }

    #[test]
    fn a_worker_rests_while_others_want_its_core_and_tries_less_and_less_often() {
        let crowd = Crowd::new();
        let mut worker = Worker::new();
        let (now, rested) = works(&mut worker, &crowd, Instant::now(), 300, Duration::ZERO);
        assert_eq!(rested, Duration::ZERO);
        let (now, rested) = works(&mut worker, &crowd, now, 20_000, 2 * MS);
        assert!(rested > 4000 * MS, "{rested:?}");
        assert_eq!(worker.courteous, COURTEOUS_MAX);
        // It takes a last rest of 8 s and a try to learn that the other is gone.
        let (now, _) = works(&mut worker, &crowd, now, 17_000, Duration::ZERO);
        let (_, rested) = works(&mut worker, &crowd, now, 1000, Duration::ZERO);
        assert_eq!(rested, Duration::ZERO);
    }

    #[test]
    fn a_worker_ignores_moments_and_rests_not_where_the_caller_has_no_core_either() {
        let crowd = Crowd::new();
        let mut worker = Worker::new();
        let (now, rested) = works(&mut worker, &crowd, Instant::now(), 5000, MS / 2);
        assert_eq!(rested, Duration::ZERO);
        crowd.crowded.store(true, Ordering::Relaxed);
        let (_, rested) = works(&mut worker, &crowd, now, 5000, 2 * MS);
        assert_eq!(rested, Duration::ZERO);
        assert!(worker.until.is_some());
    }

    #[test]
    fn a_place_comes_back_when_the_caller_leaves_it() {
        thread::spawn(|| {
            let Ok(all) = sched_getaffinity(None) else { return };
            let mine = (0..CpuSet::MAX_CPU)
                .filter(|&core| all.is_set(core))
                .collect::<Vec<_>>();
            let [first, second, ..] = mine[..] else { return };
            let mut place = Place::default();
            for core in [first, second, NONE] {
                place.keep_off(core);
                let now = sched_getaffinity(None).unwrap();
                for &each in &mine {
                    assert_eq!(now.is_set(each), each != core);
                }
            }
            // The kernel may take it away again at once, but not every time.
            let came = (0..100).any(|_| {
                go_to(if sched_getcpu() == first { second } else { first });
                let to = sched_getcpu();
                go_to(if to == first { second } else { first });
                sched_getcpu() != to
            });
            assert!(came && sched_getaffinity(None) == Ok(all));
        })
        .join()
        .unwrap();
    }
}
