//! How the threads of a pool share cores with other programs.
//!
//! Invariant: where nobody else computes, nothing here changes what a thread does. Threads that wake up for a moment now
//! and then, such as those that read the answers, do not count: resting for them costs far more than they take.
//!
//! A worker that loses its core inside a piece holds everybody up until it gets the core back, which takes
//! milliseconds. So a worker that keeps losing its core works in short bursts for a while and rests in between for as long,
//! after a whole piece, where the others can go on without it; the other program then has no reason to take the core at
//! a bad time. Meanwhile the worker keeps off the caller's core, which would only move the trouble there.
//!
//! In a virtual machine cores also stand still because the host took them. No rest helps against that, so what counts is
//! the time for which the kernel let another thread go first, not all the time that passed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// How long a worker works without a rest while others want its core: shorter than a tick of any kernel, since at
/// ticks cores are taken away. Rests are as long.
const BURST: Duration = Duration::from_millis(1);

/// How long it goes on so after it lost its core: at first, and at most. Then it tries to work without rests. Each try
/// that fails doubles the time to the next.
const COURTEOUS_MIN: Duration = Duration::from_millis(500);
const COURTEOUS_MAX: Duration = Duration::from_secs(8);

/// A time between two looks at the clock that makes it worth asking whether the core was lost.
const GAP: Duration = Duration::from_millis(1);

/// What a worker loses while it works for about [`WINDOW`], where it shares its core: who computes takes half of it, in
/// slices of 3 to 4 ms mostly; who only reads and writes takes a few hundredths. More than one slice, since the caller
/// itself takes one now and then, when both begin on the same core.
const LOST: Duration = Duration::from_millis(6);

/// Over how long losses are counted, and how much of it, in percent, means that the caller's own core is as
/// crowded as the workers'. Then resting helps nobody: workers have their rests when the caller is off.
const WINDOW: Duration = Duration::from_millis(100);
const CROWDED_PERCENT: u32 = 45;

/// Tells time that a thread was ready but not running.
struct Clock {
    wall: Instant,
    cpu: Duration,
    waited: Option<Duration>,
}

impl Clock {
    fn new() -> Clock {
        Clock {
            wall: Instant::now(),
            cpu: cpu_time(),
            waited: waited(),
        }
    }

    /// Time lost since the last look, if it is much. The thread must not have slept since; see `slept`.
    fn lost(&mut self, now: Instant) -> Option<Duration> {
        let wall = now - self.wall;
        if wall < GAP {
            return None;
        }
        let cpu = cpu_time();
        let passed = wall.saturating_sub(cpu.saturating_sub(self.cpu));
        let waited = waited();
        let lost = match (self.waited, waited) {
            (Some(before), Some(now)) => passed.min(now.saturating_sub(before)),
            _ => passed,
        };
        (self.wall, self.cpu, self.waited) = (now, cpu, waited);
        (lost > GAP / 2).then_some(lost)
    }

    /// Forgets the time before `now`.
    fn slept(&mut self, now: Instant) {
        (self.wall, self.cpu, self.waited) = (now, cpu_time(), waited());
    }
}

thread_local! {
    static SCHEDSTAT: Option<File> = File::open("/proc/thread-self/schedstat").ok();
}

/// How long this thread has stood in the queue for a core since it began; `None` if this kernel does not count that.
fn waited() -> Option<Duration> {
    let mut text = [0; 80];
    let len = SCHEDSTAT.with(|file| file.as_ref()?.read_at(&mut text, 0).ok())?;
    // Nanoseconds on a core, nanoseconds in the queue, times on a core.
    let mut fields = std::str::from_utf8(text.get(..len)?).ok()?.split_whitespace();
    Some(Duration::from_nanos(fields.nth(1)?.parse().ok()?))
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or(0),
        time.tv_nsec.try_into().unwrap_or(0),
    )
}

/// One worker's manners.
pub(super) struct Worker {
    clock: Clock,
    /// Until when it works in bursts.
    until: Option<Instant>,
    courteous: Duration,
    /// Of late.
    worked: Duration,
    lost: Duration,
    /// Work that no rest made up for yet.
    debt: Duration,
    last: Instant,
    /// The cores it may use, and the one of them that it keeps off.
    cores: Option<CpuSet>,
    off: Option<usize>,
}

impl Worker {
    /// Called on the worker's own thread.
    pub(super) fn new() -> Worker {
        let clock = Clock::new();
        Worker {
            last: clock.wall,
            clock,
            until: None,
            courteous: COURTEOUS_MIN,
            worked: Duration::ZERO,
            lost: Duration::ZERO,
            debt: Duration::ZERO,
            cores: sched_getaffinity(None).ok(),
            off: None,
        }
    }

    /// Before a run. True: the worker has rested instead, and should look anew.
    pub(super) fn rests(&mut self, caller_core: usize, crowded: bool) -> bool {
        let now = Instant::now();
        let idle = now - self.last;
        if idle > GAP / 10 {
            self.clock.slept(now);
        }
        self.debt = self.debt.saturating_sub(idle);
        self.last = now;
        if crowded || !self.is_courteous(now) {
            self.keep_off(None);
            return false;
        }
        self.keep_off(Some(caller_core));
        if self.debt <= BURST {
            return false;
        }
        thread::sleep(self.debt.min(2 * BURST));
        true
    }

    /// After a piece: whether to take another.
    pub(super) fn goes_on(&mut self, crowded: bool) -> bool {
        let now = Instant::now();
        let took = now - self.last;
        self.debt += took;
        self.last = now;
        self.worked += took;
        let lost = self.clock.lost(now).unwrap_or_default();
        self.lost += lost;
        if self.lost > self.bearable(now) {
            (self.worked, self.lost) = (Duration::ZERO, Duration::ZERO);
            self.loses(now);
        } else if self.worked > WINDOW {
            self.worked /= 2;
            self.lost /= 2;
        }
        crowded || self.debt <= BURST || !self.is_courteous(now)
    }

    fn is_courteous(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// What it may lose and think nothing of it.
    fn bearable(&self, now: Instant) -> Duration {
        match self.until {
            Some(until) if now < until => Duration::ZERO,
            Some(until) if now - until < self.courteous => GAP,
            _ => LOST,
        }
    }

    fn loses(&mut self, now: Instant) {
        if let Some(until) = self.until.filter(|&until| until <= now) {
            let failed = now - until < self.courteous;
            let doubled = (2 * self.courteous).min(COURTEOUS_MAX);
            self.courteous = if failed { doubled } else { COURTEOUS_MIN };
        }
        self.until = Some(now + self.courteous);
    }

    fn keep_off(&mut self, core: Option<usize>) {
        if self.off == core {
            return;
        }
        let Some(mut cores) = self.cores else { return };
        if let Some(core) = core {
            cores.unset(core);
        }
        // Refused where it would leave no core: then the worker stays where it may be.
        if sched_setaffinity(None, &cores).is_ok() {
            self.off = core;
        }
    }
}

/// How crowded the caller's core is.
pub(super) struct Caller {
    clock: Clock,
    since: Instant,
    lost: Duration,
    worked: Duration,
    pub(super) crowded: bool,
}

impl Caller {
    pub(super) fn new() -> Caller {
        let clock = Clock::new();
        Caller {
            since: clock.wall,
            clock,
            lost: Duration::ZERO,
            worked: Duration::ZERO,
            crowded: false,
        }
    }

    /// Before a run.
    pub(super) fn starts(&mut self) {
        let now = Instant::now();
        if now - self.since > GAP / 10 {
            self.clock.slept(now);
        }
        self.since = now;
    }

    /// When no pieces are left to take.
    pub(super) fn ends(&mut self) {
        let now = Instant::now();
        self.worked += now - self.since;
        self.since = now;
        self.lost += self.clock.lost(now).unwrap_or_default();
        if self.worked > WINDOW {
            self.crowded = self.lost * 100 > self.worked * CROWDED_PERCENT;
            self.lost /= 2;
            self.worked /= 2;
        }
    }
}
