//! Threads that share one piece of work at a time, handed out in small pieces by atomic counters.
//!
//! Invariant: when `run` returns or unwinds, no worker holds its closure any more.
//!
//! A worker joins a run only while it is open. A worker that sleeps or has lost its core just misses the run, and the
//! others do its share; the caller waits only for pieces that are under way. Workers look for the next run for
//! `SPIN` and then sleep, so an idle pool costs nothing.

mod courtesy;
mod stretches;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use crate::isa::Isa;
use crate::simd::Level;
use courtesy::{Caller, Crowd, Worker};
use stretches::Stretches;

/// How long a worker looks for the next run before it sleeps, and a caller for its last piece. About the gap between
/// two kernels of a step, which the engine fills with serial work.
const SPIN: Duration = Duration::from_micros(50);

/// `state` counts the workers inside a run in its low bits, then says whether the run is open; the rest is its number.
const INSIDE: u64 = (1 << 16) - 1;
const OPEN: u64 = 1 << 16;
const NUMBER: u64 = 1 << 17;

/// Most workers a pool has, so that the count of those inside stays within its bits.
const WORKERS_MAX: usize = 1024;

type Piece = dyn Fn(usize) + Sync;

thread_local! {
    /// Set while this thread works on a piece: a nested `run` then stays on this thread, or it would wait for itself.
    static IN_PIECE: Cell<bool> = const { Cell::new(false) };
}

/// A pool of threads. Dropping it ends and joins them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One run at a time.
    turn: Mutex<Caller>,
    level: Level,
}

struct Shared {
    state: AtomicU64,
    /// The pieces that nobody has taken.
    stretches: Stretches,
    job: UnsafeCell<Job>,
    sleeping: AtomicUsize,
    caller_sleeps: AtomicBool,
    crowd: Crowd,
    quit: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    lock: Mutex<()>,
    wake: Condvar,
    finished: Condvar,
}

#[derive(Clone, Copy)]
struct Job {
    pieces: usize,
    piece: Option<*const Piece>,
}

// SAFETY: `job` is written only by the caller that holds `turn`, while the run is closed and nobody is inside, and is
// read only by workers inside an open run (they synchronise through `state`). Its pointer is to a `Sync` closure.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is used only between the opening and the end of a run.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool in which `threads` threads work, the caller of `run` being one of them (0 counts as 1).
    ///
    /// # Errors
    /// The system refused a thread.
    pub fn new(threads: usize) -> io::Result<Pool> {
        Pool::with_isa(threads, Isa::detect())
    }

    /// As `new`, with kernels of a chosen level, or of the best below it that this processor has.
    ///
    /// # Errors
    /// The system refused a thread.
    pub fn with_isa(threads: usize, isa: Isa) -> io::Result<Pool> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            stretches: Stretches::new(threads.clamp(1, WORKERS_MAX)),
            job: UnsafeCell::new(Job {
                pieces: 0,
                piece: None,
            }),
            sleeping: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            crowd: Crowd::new(),
            quit: AtomicBool::new(false),
            panic: Mutex::new(None),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            finished: Condvar::new(),
        });
        let mut pool = Pool {
            shared,
            workers: Vec::new(),
            turn: Mutex::new(Caller::new()),
            level: Level::of(isa),
        };
        for index in 1..threads.min(WORKERS_MAX) {
            let shared = Arc::clone(&pool.shared);
            let worker = thread::Builder::new()
                .name(format!("kernel-{index}"))
                .spawn(move || shared.work(index))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Threads that work in a run, the caller among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The instruction set that kernels use on this pool.
    pub fn isa(&self) -> Isa {
        self.level.isa()
    }

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// Calls `f` once for each of `0..pieces`, on several threads at once and in no fixed order, and returns when all
    /// are done. Runs from several threads take turns; a run inside a piece stays on its thread.
    ///
    /// # Panics
    /// If a piece panics, the rest may be left out and the panic goes on in the caller. The pool stays usable.
    pub fn run(&self, pieces: usize, f: &(dyn Fn(usize) + Sync)) {
        if pieces <= 1 || self.workers.is_empty() || IN_PIECE.get() {
            (0..pieces).for_each(f);
            return;
        }
        let mut caller = held(&self.turn);
        caller.starts(&self.shared.crowd);
        // SAFETY: only the lifetime is changed. `close` below returns when no worker is inside the run, and workers
        // use the pointer only inside; nothing between here and there unwinds, since `take_pieces` catches.
        let piece: *const Piece = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), _>(f) };
        self.shared.open(Job {
            pieces,
            piece: Some(piece),
        });
        self.shared.take_pieces(0, pieces, f, &mut || true);
        caller.ends(&self.shared.crowd);
        self.shared.close();
        let panic = held(&self.shared.panic).take();
        drop(caller);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        drop(held(&self.shared.lock));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its pieces, so there is none to pass on.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Starts a run. The caller holds `turn`.
    fn open(&self, job: Job) {
        let before = self.state.load(Ordering::Relaxed);
        debug_assert_eq!(before & (OPEN | INSIDE), 0);
        // SAFETY: the run before was closed and everyone had left it, so nobody reads `job` until `state` says OPEN.
        unsafe { *self.job.get() = job };
        self.stretches.deal(job.pieces);
        self.state
            .store(before.wrapping_add(NUMBER) | OPEN, Ordering::SeqCst);
        // Either this load sees a worker that is about to sleep, or that worker's last look at `state` sees the run.
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            drop(held(&self.lock));
            self.wake.notify_all();
        }
    }

    /// Ends a run: lets no one in any more and waits for those inside.
    fn close(&self) {
        self.state.fetch_and(!OPEN, Ordering::SeqCst);
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..32 {
                if self.state.load(Ordering::Acquire) & INSIDE == 0 {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let mut lock = held(&self.lock);
        self.caller_sleeps.store(true, Ordering::SeqCst);
        while self.state.load(Ordering::SeqCst) & INSIDE != 0 {
            lock = self.finished.wait(lock).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }

    /// Takes pieces for a thread until none is left or `goes_on` says no. A panic ends the handing out and is kept for the
    /// caller.
    fn take_pieces(
        &self,
        thread: usize,
        pieces: usize,
        f: &(dyn Fn(usize) + Sync),
        goes_on: &mut dyn FnMut() -> bool,
    ) {
        IN_PIECE.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| {
            while let Some(piece) = self.stretches.take(thread, pieces) {
                f(piece);
                if !goes_on() {
                    break;
                }
            }
        }));
        IN_PIECE.set(false);
        if let Err(payload) = result {
            self.stretches.clear(pieces);
            held(&self.panic).get_or_insert(payload);
        }
    }

    /// A worker's life.
    fn work(&self, thread: usize) {
        let mut seen = 0;
        let mut worker = Worker::new();
        while let Some(number) = self.await_run(seen) {
            worker.starts(&self.crowd);
            seen = number;
            if !self.enter(number) {
                continue;
            }
            // SAFETY: we are inside an open run, so `job` is not written, and its closure lives until we leave.
            let job = unsafe { *self.job.get() };
            if let Some(piece) = job.piece {
                // SAFETY: as above: the caller of `run` waits for us before the closure goes.
                let piece = unsafe { &*piece };
                self.take_pieces(thread, job.pieces, piece, &mut || worker.goes_on(&self.crowd));
            }
            let left = self.state.fetch_sub(1, Ordering::SeqCst) - 1;
            if left & (OPEN | INSIDE) == 0 && self.caller_sleeps.load(Ordering::SeqCst) {
                drop(held(&self.lock));
                self.finished.notify_one();
            }
            worker.ends(&self.crowd);
        }
    }

    /// Counts this worker in, if run `number` is still open.
    fn enter(&self, number: u64) -> bool {
        let mut state = self.state.load(Ordering::Relaxed);
        while state & OPEN != 0 && state / NUMBER == number {
            match self
                .state
                .compare_exchange_weak(state, state + 1, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    /// Waits for an open run other than `seen` and returns its number, or `None` when the pool ends.
    fn await_run(&self, seen: u64) -> Option<u64> {
        let new_run = || {
            let state = self.state.load(Ordering::SeqCst);
            (state & OPEN != 0 && state / NUMBER != seen).then_some(state / NUMBER)
        };
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..32 {
                if let Some(number) = new_run() {
                    return Some(number);
                }
                std::hint::spin_loop();
            }
        }
        let mut lock = held(&self.lock);
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        let found = loop {
            if self.quit.load(Ordering::SeqCst) {
                break None;
            }
            if let Some(number) = new_run() {
                break Some(number);
            }
            lock = self.wake.wait(lock).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
        found
    }
}

/// Locks, also after a panic: what these mutexes guard stays whole through one.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
