//! The pool: every piece exactly once, panics that come back, threads that end.
//!
//! Invariant under test: after `run` returns or unwinds, its closure is used no more and the pool works on.

#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use hyprstream_kernels::Pool;

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
