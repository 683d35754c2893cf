//! The allocator's own keepings. Invariant: nothing that is in use is touched.

#[cfg(all(target_os = "linux", target_env = "gnu"))]
unsafe extern "C" {
    /// malloc_trim(3).
    fn malloc_trim(pad: usize) -> i32;
}

/// Gives memory that was freed back to the system. Freed buffers below the allocator's threshold, which grows with use to
/// 32 MiB, otherwise stay with the process.
pub fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it may be called at any time, from any thread, and takes no pointer.
    unsafe {
        malloc_trim(0);
    }
}
