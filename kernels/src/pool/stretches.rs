//! Which pieces of a run are still to be done: each thread has a stretch of its own, and helps others once that is done.
//!
//! Invariant: each piece is taken once at most.
//!
//! Pieces that follow one another mostly read memory that does: what a thread asks for ahead of its work is then for
//! itself, and not for whoever happens to take the next piece.

use std::sync::atomic::{AtomicUsize, Ordering};

/// The next piece of a stretch, on cache lines of its own.
#[repr(align(128))]
struct Next(AtomicUsize);

pub(super) struct Stretches(Box<[Next]>);

impl Stretches {
    /// For so many threads, with nothing to take.
    pub(super) fn new(threads: usize) -> Stretches {
        Stretches((0..threads).map(|_| Next(AtomicUsize::new(0))).collect())
    }

    /// The first piece of a stretch, if there are so many pieces; of the stretch behind the last, their number.
    fn first(&self, stretch: usize, pieces: usize) -> usize {
        let (each, more) = (pieces / self.0.len(), pieces % self.0.len());
        each * stretch + more.min(stretch)
    }

    /// Deals out so many pieces. Nobody takes any meanwhile.
    pub(super) fn deal(&self, pieces: usize) {
        for (stretch, next) in self.0.iter().enumerate() {
            next.0.store(self.first(stretch, pieces), Ordering::Relaxed);
        }
    }

    /// A piece for a thread, of the `pieces` that were dealt out.
    pub(super) fn take(&self, thread: usize, pieces: usize) -> Option<usize> {
        for turn in 0..self.0.len() {
            let stretch = (thread + turn) % self.0.len();
            let (next, end) = (&self.0[stretch].0, self.first(stretch + 1, pieces));
            // Looked at before it is counted up, so that it stays where it is once it is done.
            if next.load(Ordering::Relaxed) < end {
                let piece = next.fetch_add(1, Ordering::Relaxed);
                if piece < end {
                    return Some(piece);
                }
            }
        }
        None
    }

    /// Leaves nothing to take of the `pieces` that were dealt out.
    pub(super) fn clear(&self, pieces: usize) {
        for next in &self.0 {
            next.0.store(pieces, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_is_taken_once_and_ones_own_come_first() {
        for threads in 1..6 {
            let stretches = Stretches::new(threads);
            for pieces in 0..40 {
                for thread in 0..threads {
                    stretches.deal(pieces);
                    let taken: Vec<_> = std::iter::from_fn(|| stretches.take(thread, pieces)).collect();
                    let own = stretches.first(thread, pieces);
                    let order: Vec<_> = (own..pieces).chain(0..own).collect();
                    assert_eq!(taken, order, "{threads} threads, {pieces} pieces");
                }
                stretches.deal(pieces);
                stretches.clear(pieces);
                assert_eq!(stretches.take(0, pieces), None);
            }
        }
    }
}
