//! Where the system refuses AMX to a process, detection gives the level below it.
//!
//! Invariant: alone in its program, since the first answer holds for a whole process.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(clippy::unwrap_used)]

use std::arch::asm;

use hyprstream_kernels::{Isa, Pool};

/// Gives this thread a signal stack of `bytes`: enough for signals as they are, too little for ones that save tiles.
/// Linux refuses tiles to a process that has such a stack (`ENOSPC`).
fn small_signal_stack(bytes: usize) -> i64 {
    const SIGALTSTACK: i64 = 131;
    #[repr(C)]
    struct Stack {
        at: *mut u8,
        flags: i32,
        bytes: usize,
    }
    let stack = Stack {
        at: Box::leak(vec![0u8; bytes].into_boxed_slice()).as_mut_ptr(),
        flags: 0,
        bytes,
    };
    let answer;
    // SAFETY: the system reads `stack`; the memory behind it is never freed.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") SIGALTSTACK => answer,
            in("rdi") &stack,
            in("rsi") 0,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer
}

#[test]
fn refused_permission_gives_the_level_below() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    if !cpu.contains("amx_tile") {
        eprintln!("SKIPPED: this machine has no AMX");
        return;
    }
    assert_eq!(small_signal_stack(6 << 10), 0);
    assert!(Isa::Amx.or_lower() < Isa::Amx, "refused");
    assert_eq!(Isa::detect(), Isa::Amx.or_lower());
    let pool = Pool::with_isa(2, Isa::Amx).unwrap();
    assert_eq!(pool.isa(), Isa::Amx.or_lower());
}
