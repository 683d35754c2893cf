//! The allocator's own keepings. Invariant: nothing that is in use is touched.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
unsafe extern "C" {
    /// malloc_trim(3).
    fn malloc_trim(pad: usize) -> i32;
    /// mallopt(3).
    fn mallopt(param: i32, value: i32) -> i32;
}

/// Of malloc.h.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const M_MMAP_THRESHOLD: i32 = -3;
/// Nothing that is allocated while tokens are computed is as large.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE_BYTES: i32 = 1 << 20;

/// From now on buffers of a MiB and more leave the process when they are freed. The allocator otherwise learns from the
/// first ones to keep the next, up to 32 MiB in each of its arenas, and [`give_back_freed`] does not get at all of that.
/// For the start of a program.
pub fn return_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time, from any thread, and takes no pointer.
    unsafe {
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}

/// Gives memory that was freed back to the system. Freed buffers below the allocator's threshold otherwise stay with the
/// process.
pub fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time, from any thread, and takes no pointer.
    unsafe {
        malloc_trim(0);
    }
}
