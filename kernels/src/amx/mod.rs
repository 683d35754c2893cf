//! Intel AMX: tiles of 16 rows x 64 bytes and products of them. Stable Rust has no intrinsics for it, so this is
//! inline assembly.
//!
//! Invariant: an `Amx` exists only where the processor has the instructions and the system lets this process use them;
//! tile instructions run only while a `Tiles` lives, on its thread.

mod block;
mod instructions;
mod tiles;

use std::arch::asm;
use std::sync::OnceLock;

use crate::isa::Isa;
use crate::simd::{Avx512, Vnni};
pub(crate) use block::{Area, Target, multiply_block};
pub(crate) use instructions::{tile_dpbssd, tile_dpbsud, tile_load, tile_store, tile_zero};
pub(crate) use tiles::{Shapes, Tiles};

/// Holding it proves AMX tiles with int8 and bf16 products, and AVX-512 with VNNI, VBMI and BF16 beside them: every
/// processor with AMX has those.
#[derive(Clone, Copy)]
pub(crate) struct Amx(Vnni);

impl Amx {
    pub(crate) fn detect() -> Option<Amx> {
        let vnni = Vnni::detect()?;
        Isa::Amx.is_here().then_some(Amx(vnni))
    }

    pub(crate) fn avx512(self) -> Avx512 {
        self.0.avx512()
    }

    pub(crate) fn vnni(self) -> Vnni {
        self.0
    }
}

/// Whether the processor has tiles. Looked up once, since hypervisors make it slow.
pub(crate) fn found() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(processor_has_it)
}

/// The instructions, and registers that the system saves (XCR0 bits 17 and 18; the flag `osxsave` says that XCR0 can be
/// read).
fn processor_has_it() -> bool {
    use std::arch::x86_64::{__cpuid_count, __get_cpuid_max, _xgetbv};
    /// Leaf 7, EDX: AMX-BF16, AMX-TILE, AMX-INT8.
    const AMX: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    /// XCR0: tile configuration and tile data.
    const STATE: u64 = 3 << 17;
    #[target_feature(enable = "xsave")]
    fn enabled() -> u64 {
        // SAFETY: the function is called where `xsave` was found, which includes that the system set OSXSAVE.
        unsafe { _xgetbv(0) }
    }
    // SAFETY: `xsave` was just found.
    std::arch::is_x86_feature_detected!("xsave")
        && __get_cpuid_max(0).0 >= 7
        && __cpuid_count(7, 0).edx & AMX == AMX
        && unsafe { enabled() } & STATE == STATE
}

/// Whether this process may use tiles. The system is asked the first time, and its answer holds for the whole process.
pub(crate) fn permitted() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(permission)
}

/// Asks Linux for the tile registers, which it gives only to those that ask (Documentation/arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
fn permission() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let answer: i64;
    // SAFETY: a system call that reads and writes no memory of ours; it destroys rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => answer,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    answer == 0
}

/// Other systems were not tried.
#[cfg(not(target_os = "linux"))]
fn permission() -> bool {
    false
}
