//! Packed weights with many generated tokens, by int8 tiles.
//!
//! Invariant: the integers and the order of operations on floats are those of `int8`, so that a row's results do not
//! tell which of the two made them.
#![allow(clippy::needless_range_loop)] // Plain loops over registers are what the compiler unrolls.

mod by_256;
mod by_32;

use std::arch::x86_64::*;
use std::ops::Range;

use super::Packed;
use crate::amx::Amx;
use crate::input::{Blocks, Unit};
use crate::packed::layout::PANEL;
use crate::packed::registers::{Kind, with_kind};

/// How far ahead of the codes in use others are asked for.
const AHEAD: usize = 8 << 10;

/// The products of some panels with all int8 rows.
pub(super) fn panels(amx: Amx, part: &Packed<'_>, panels: Range<usize>, blocks: Blocks) {
    if panels.is_empty() {
        return;
    }
    for block in 0..blocks.count() {
        let job = Job {
            part,
            panels: panels.clone(),
            rows: blocks.rows(block),
        };
        with_kind!(part.w.format, K => job.run::<K>(amx, block));
    }
}

/// Some panels with a block of rows.
struct Job<'a> {
    part: &'a Packed<'a>,
    panels: Range<usize>,
    rows: Range<usize>,
}

/// Products with activations of one kind of unit.
trait Run: Unit {
    /// At most `R` rows with all panels of the job, in block `block` of the rows.
    ///
    /// # Safety
    /// The processor has what the token proves.
    unsafe fn run<K: Kind, const R: usize>(job: &Job<'_>, block: usize, amx: Amx);
}

impl Job<'_> {
    fn run<K: Kind<Unit: Run>>(&self, amx: Amx, block: usize) {
        // SAFETY: the token proves the instructions.
        unsafe {
            if self.rows.len() <= 8 {
                K::Unit::run::<K, 8>(self, block, amx);
            } else {
                K::Unit::run::<K, 16>(self, block, amx);
            }
        }
    }

    /// Puts a panel's sums in their place.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[inline(never)]
    #[target_feature(enable = "avx512f")]
    unsafe fn place(&self, panel: usize, sums: &[__m512]) {
        let (out, first) = (&self.part.out, panel * PANEL);
        let len = PANEL.min(out.width - first);
        for (row, sums) in self.rows.clone().zip(sums) {
            if len < PANEL || out.bias.is_some() {
                // SAFETY: a vector is as many floats, whose alignment is less.
                let values = unsafe { &*std::ptr::from_ref(sums).cast::<[f32; PANEL]>() };
                out.store(row, first, &values[..len]);
                continue;
            }
            // SAFETY: these columns of `y`, a vector long, belong to this piece alone, which runs on one thread.
            unsafe {
                let y = out.y.part(row * out.width + first, PANEL).as_mut_ptr();
                let sums = if out.add {
                    _mm512_add_ps(_mm512_loadu_ps(y), *sums)
                } else {
                    *sums
                };
                _mm512_storeu_ps(y, sums);
            }
        }
    }
}
