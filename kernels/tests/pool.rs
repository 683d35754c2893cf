//! The pool: every piece exactly once, panics that come back, threads that end.
//!
//! Invariant under test: after `run` returns or unwinds, its closure is used no more and the pool works on.

#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use hyprstream_kernels::{Isa, Pool};

/// Who waits longer than this for the others waits for ever.
const DEADLINE: Duration = Duration::from_secs(20);

fn counts(pool: &Pool, pieces: usize) -> Vec<usize> {
    let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
    pool.run(pieces, &|i| {
        counts[i].fetch_add(1, Ordering::Relaxed);
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn every_piece_runs_once() {
    for threads in [0, 1, 2, 3, 7] {
        let pool = Pool::new(threads).unwrap();
        assert_eq!(pool.threads(), threads.max(1));
        for pieces in [0, 1, 2, 3, 64, 1000] {
            assert_eq!(counts(&pool, pieces), vec![1; pieces]);
        }
    }
}

#[test]
fn many_short_runs_and_pauses_long_enough_to_sleep() {
    let pool = Pool::new(4).unwrap();
    for round in 0..5000 {
        assert_eq!(counts(&pool, 5), vec![1; 5]);
        if round % 500 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn a_slow_piece_is_waited_for() {
    let pool = Pool::new(3).unwrap();
    let done = AtomicUsize::new(0);
    for _ in 0..5 {
        pool.run(3, &|i| {
            thread::sleep(Duration::from_millis(if i == 0 { 5 } else { 0 }));
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(done.into_inner(), 15);
}

/// What the threads of a run have done.
#[derive(Default)]
struct Done {
    pieces: usize,
    /// The worker that is held up in its first piece.
    slow: Option<ThreadId>,
    /// Pieces that had been done when it was let go.
    meanwhile: Option<usize>,
}

/// Of a run of so many pieces, how many the other threads do while one worker sits in its first piece until they have
/// done them all; nothing if no worker took part.
fn done_beside_a_slow_worker(pool: &Pool, pieces: usize) -> Option<usize> {
    let (done, changed) = (Mutex::new(Done::default()), Condvar::new());
    let caller = thread::current().id();
    pool.run(pieces, &|_| {
        let me = thread::current().id();
        let mut done = done.lock().unwrap();
        if me != caller && done.slow.is_none() {
            done.slow = Some(me);
            changed.notify_all();
            let others = |done: &mut Done| done.pieces + 1 < pieces;
            done = changed.wait_timeout_while(done, DEADLINE, others).unwrap().0;
            done.meanwhile = Some(done.pieces);
        } else {
            // Nobody goes on before a worker is in the run.
            let nobody = |done: &mut Done| done.slow.is_none();
            done = changed.wait_timeout_while(done, DEADLINE, nobody).unwrap().0;
        }
        done.pieces += 1;
        changed.notify_all();
    });
    done.into_inner().unwrap().meanwhile
}

#[test]
fn no_piece_waits_for_a_slow_worker() {
    for threads in [2, 3, 5] {
        let pool = Pool::new(threads).unwrap();
        // At the least, everyone has one in hand.
        for pieces in [threads, 16, 100, 1000] {
            let done = done_beside_a_slow_worker(&pool, pieces);
            assert_eq!(done, Some(pieces - 1), "{threads} threads");
        }
    }
}

#[test]
fn a_pool_has_the_level_that_was_asked_for_or_the_best_below_it() {
    for isa in Isa::ALL {
        assert_eq!(Pool::with_isa(1, isa).unwrap().isa(), isa.or_lower());
    }
    assert_eq!(Pool::with_isa(1, Isa::Scalar).unwrap().isa(), Isa::Scalar);
}

#[test]
fn a_panic_comes_back_and_the_pool_stays_usable() {
    for threads in [1, 2, 4] {
        let pool = Pool::new(threads).unwrap();
        for bad in [0, 17, 99] {
            let run = || pool.run(100, &|i| assert!(i != bad, "piece {bad} fails"));
            let payload = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            assert!(
                payload
                    .downcast_ref::<String>()
                    .unwrap()
                    .contains(&format!("piece {bad} fails"))
            );
            assert_eq!(counts(&pool, 50), vec![1; 50]);
        }
    }
}

#[test]
fn runs_nest_and_runs_of_several_threads_take_turns() {
    let pool = Arc::new(Pool::new(3).unwrap());
    let total = AtomicUsize::new(0);
    pool.run(4, &|_| {
        pool.run(10, &|_| {
            total.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(total.into_inner(), 40);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..200).for_each(|_| assert_eq!(counts(&pool, 9), vec![1; 9])));
        }
    });
}

#[test]
fn dropping_an_idle_pool_joins_its_threads() {
    for sleep in [0, 5] {
        let pool = Pool::new(4).unwrap();
        counts(&pool, 10);
        thread::sleep(Duration::from_millis(sleep));
        drop(pool);
    }
}
