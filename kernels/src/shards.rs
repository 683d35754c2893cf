//! One mutable slice, written by many threads in parts that do not meet.
//!
//! Invariant: every part handed out is inside the slice; that no two parts overlap is the caller's promise.

use std::marker::PhantomData;

use crate::pool::Pool;

/// A mutable slice that threads share, each writing its own part.
pub(crate) struct Shards<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Shards` is only a `&mut [T]` whose parts go to different threads (see `part`), which `T: Send` allows.
unsafe impl<T: Send> Sync for Shards<'_, T> {}
// SAFETY: as above; the mutable borrow that it stands for may move between threads when `T: Send`.
unsafe impl<T: Send> Send for Shards<'_, T> {}

impl<'a, T> Shards<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Shards<'a, T> {
        Shards {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            slice: PhantomData,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where element `at` lies, or would: an address to prefetch, not to use.
    #[inline(always)]
    pub(crate) fn address(&self, at: usize) -> *const T {
        self.start.wrapping_add(at)
    }

    /// Where element `at` is, for who writes only some of its fields.
    #[inline(always)]
    pub(crate) fn place(&self, at: usize) -> *mut T {
        assert!(at < self.len, "a place lies inside its slice");
        self.start.wrapping_add(at)
    }

    /// Elements `at..at + len`.
    ///
    /// # Safety
    /// While the returned part lives, no other part that overlaps it does.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub(crate) unsafe fn part(&self, at: usize, len: usize) -> &mut [T] {
        assert!(
            at <= self.len && len <= self.len - at,
            "a part lies inside its slice"
        );
        // SAFETY: the range was checked; `start` came from a mutable borrow that lasts `'a`; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

/// Calls `f` with parts of `len` values (the last may be shorter) and where they begin, spread over the pool.
pub(crate) fn each_part<T: Send>(
    pool: &Pool,
    slice: &mut [T],
    len: usize,
    f: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    let total = slice.len();
    let shards = Shards::new(slice);
    pool.run(total.div_ceil(len), &|piece| {
        let at = piece * len;
        // SAFETY: each piece runs once and has its own range.
        f(at, unsafe { shards.part(at, len.min(total - at)) });
    });
}
