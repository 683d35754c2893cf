//! Products of bf16 tiles that are loaded from the first cache, with four and with eight tiles in use: what the kernels' choice
//! of four rests on.
//!
//! Invariant: both do the same products of the same data. The processor renames tiles, from a file that at times is large
//! and at times, as when the core's other thread is busy, has hardly more than the eight that a program sees. So both
//! the best and the median of many short turns are told.

use std::arch::asm;
use std::time::Instant;

use super::limits::peaks::tiles::FULL;

const TURNS: usize = 4000;
const STEPS: usize = 64;
/// Products of a step.
const PRODUCTS: usize = 4;
const TILE: usize = 1024;

/// Two tiles of rows and two of columns: 4 KB.
#[repr(C, align(64))]
struct Operands([u8; 4 * TILE]);

/// Runs the body `STEPS` times; `{a}` is where the operands are, `{stride}` is 64.
macro_rules! loops {
    ($operands:expr, $($line:literal)*) => {
        asm!(
            "ldtilecfg [{shapes}]",
            "2:",
            $($line,)*
            "dec {steps}",
            "jnz 2b",
            "tilerelease",
            shapes = in(reg) FULL.0.as_ptr(),
            steps = inout(reg) STEPS => _,
            a = in(reg) $operands.0.as_ptr(),
            stride = in(reg) 64_usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, readonly),
        )
    };
}

/// Two tiles of sums: a row of tiles after the other.
///
/// # Safety
/// The processor has AMX and the system lets this process use it.
unsafe fn four(operands: &Operands) {
    // SAFETY: the caller's promise; what the tile registers held belonged to nobody, and they are released.
    unsafe {
        loops!(operands,
            "tileloadd tmm2, [{a} + {stride}]"
            "tileloadd tmm3, [{a} + {stride} + 2048]"
            "tdpbf16ps tmm0, tmm2, tmm3"
            "tileloadd tmm3, [{a} + {stride} + 3072]"
            "tdpbf16ps tmm1, tmm2, tmm3"
            "tileloadd tmm2, [{a} + {stride} + 1024]"
            "tileloadd tmm3, [{a} + {stride} + 2048]"
            "tdpbf16ps tmm0, tmm2, tmm3"
            "tileloadd tmm3, [{a} + {stride} + 3072]"
            "tdpbf16ps tmm1, tmm2, tmm3"
        );
    }
}

/// Two by two tiles of sums: each operand is loaded once.
///
/// # Safety
/// As `four`.
unsafe fn eight(operands: &Operands) {
    // SAFETY: as in `four`.
    unsafe {
        loops!(operands,
            "tileloadd tmm6, [{a} + {stride} + 2048]"
            "tileloadd tmm7, [{a} + {stride} + 3072]"
            "tileloadd tmm4, [{a} + {stride}]"
            "tdpbf16ps tmm0, tmm4, tmm6"
            "tdpbf16ps tmm1, tmm4, tmm7"
            "tileloadd tmm5, [{a} + {stride} + 1024]"
            "tdpbf16ps tmm2, tmm5, tmm6"
            "tdpbf16ps tmm3, tmm5, tmm7"
        );
    }
}

/// Nanoseconds a product, best and median, of one thread.
///
/// # Safety
/// As `four`.
pub unsafe fn print() {
    let operands = Operands([0; 4 * TILE]);
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        for (run, times) in [four, eight].into_iter().zip(&mut times) {
            let start = Instant::now();
            // SAFETY: the caller's promise.
            unsafe { run(&operands) };
            times.push(start.elapsed().as_secs_f64() * 1e9 / (STEPS * PRODUCTS) as f64);
        }
    }
    println!("\nproducts of bf16 tiles, loaded, one thread: ns each  best median");
    for (name, times) in ["four tiles in use", "eight"].into_iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        println!("{name:50} {:6.1} {:6.1}", times[0], times[times.len() / 2]);
    }
}
