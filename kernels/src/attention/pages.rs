//! Memory straight from the system for keys and values: zero, and backed only where it was touched.
//!
//! Invariant: a `Pages` owns its mapping alone, and its slice lies inside it, at the start of a page.
//!
//! A step reads keys and values of blocks that lie anywhere. With small pages every few kilobytes ask for another
//! translation, which costs as much as the read; so large caches ask for huge pages. They also begin at a multiple of
//! a cache line, so that no vector lies across two.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// A huge page of x86-64 and of most others.
const HUGE_PAGE: usize = 2 << 20;

/// From this size on, memory asks for huge pages: then the last one, or the first that is touched, is little of it.
const HUGE_FROM: usize = 4 * HUGE_PAGE;

/// A number whose zero is all zero bits.
pub(super) trait Zero: Copy {}
impl Zero for f32 {}
impl Zero for u16 {}
impl Zero for i8 {}

/// A slice in a mapping of its own.
pub(super) struct Pages<T> {
    first: NonNull<T>,
    len: usize,
    mapping: *mut std::ffi::c_void,
    /// 0 for an empty slice, which has no mapping.
    bytes: usize,
    owned: PhantomData<T>,
}

// SAFETY: the mapping belongs to this value alone, as a vector's memory does.
unsafe impl<T: Send> Send for Pages<T> {}
// SAFETY: as above; shared references only read.
unsafe impl<T: Sync> Sync for Pages<T> {}

impl<T: Zero> Pages<T> {
    /// `len` zeros; `None` if the size overflows or the system has no such memory.
    pub(super) fn zeroed(len: usize) -> Option<Pages<T>> {
        let wanted = len
            .checked_mul(size_of::<T>())
            .filter(|&bytes| bytes <= isize::MAX as usize)?;
        if wanted == 0 {
            return Some(Pages {
                first: NonNull::dangling(),
                len,
                mapping: ptr::null_mut(),
                bytes: 0,
                owned: PhantomData,
            });
        }
        let huge = wanted >= HUGE_FROM;
        // Room to begin at a huge page.
        let bytes = if huge {
            wanted.checked_add(HUGE_PAGE)?
        } else {
            wanted
        };
        // SAFETY: a new mapping at an address of the system's choice touches no memory of ours.
        let mapping = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .ok()?;
        let mut first = mapping;
        if huge {
            first = mapping.wrapping_byte_add(mapping.addr().wrapping_neg() % HUGE_PAGE);
            advise_huge(first, wanted);
        }
        Some(Pages {
            first: NonNull::new(first.cast())?,
            len,
            mapping,
            bytes,
            owned: PhantomData,
        })
    }
}

impl<T> Pages<T> {
    /// Has the system back values of this range now, and not when they are first written. They stay what they are. A system
    /// that cannot do so yet leaves it for later.
    pub(super) fn back(&self, range: Range<usize>) {
        let range = range.start.min(self.len)..range.end.min(self.len);
        if self.bytes == 0 || range.is_empty() {
            return;
        }
        #[cfg(target_os = "linux")]
        {
            let first = self.first.as_ptr().wrapping_add(range.start);
            let page_offset = first.addr() % rustix::param::page_size();
            let bytes = range.len() * size_of::<T>() + page_offset;
            let advice = rustix::mm::Advice::LinuxPopulateWrite;
            // SAFETY: the range lies in our mapping, which begins at a page as it does; backing a page changes none of its
            // contents.
            let _ =
                unsafe { rustix::mm::madvise(first.wrapping_byte_sub(page_offset).cast(), bytes, advice) };
        }
    }
}

/// Asks for huge pages. A system that has none says no, and nothing is lost.
fn advise_huge(first: *mut std::ffi::c_void, bytes: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: the advice changes how memory is backed and none of its contents; the range is the caller's mapping.
    let _ = unsafe { rustix::mm::madvise(first, bytes, rustix::mm::Advice::LinuxHugepage) };
    #[cfg(not(target_os = "linux"))]
    let _ = (first, bytes);
}

impl<T> Deref for Pages<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` values lie in the mapping, which only we own; zeros and all that is written are valid values.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Pages<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; the reference to us is the only one.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T> Drop for Pages<T> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: the mapping is ours, and no reference to it outlives us. There is nobody to tell if it fails.
            let _ = unsafe { munmap(self.mapping, self.bytes) };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_zero_aligned_and_keep_what_is_written() {
        for len in [0, 1, 5000, HUGE_FROM / 2 - 1, HUGE_FROM / 2 + 1] {
            let mut pages = Pages::<u16>::zeroed(len).unwrap();
            assert_eq!(pages.len(), len);
            assert!(len == 0 || pages.as_ptr().addr().is_multiple_of(4096));
            assert!(2 * len < HUGE_FROM || pages.as_ptr().addr().is_multiple_of(HUGE_PAGE));
            assert!(pages.iter().all(|&value| value == 0));
            pages.fill(7);
            assert!(pages.iter().all(|&value| value == 7));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pages_that_are_backed_keep_their_values() {
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
            pages * rustix::param::page_size()
        };
        let mut pages = Pages::<u16>::zeroed(32 << 20).unwrap();
        pages[1234] = 7;
        let before = resident();
        pages.back(1000..usize::MAX);
        let now = resident();
        assert!(now >= before + (48 << 20), "{before} {now}");
        assert!(
            pages
                .iter()
                .enumerate()
                .all(|(i, &value)| value == if i == 1234 { 7 } else { 0 })
        );
        Pages::<f32>::zeroed(0).unwrap().back(0..5);
    }

    #[test]
    fn more_than_there_can_be_is_refused() {
        assert!(Pages::<f32>::zeroed(usize::MAX).is_none());
        assert!(Pages::<f32>::zeroed(isize::MAX as usize / 4).is_none());
    }
}
