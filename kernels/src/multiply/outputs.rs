//! Where the outputs of some rows of activations go.
//!
//! Invariant: a value is stored once, with its bias, and on top of what is there if the product is added.

use crate::shards::Shards;
use crate::simd::Simd;

/// `[rows, width]`, shared out by columns.
pub(super) struct Outputs<'a> {
    pub(super) width: usize,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) y: Shards<'a, f32>,
    pub(super) add: bool,
}

impl<'a> Outputs<'a> {
    pub(super) fn new(width: usize, bias: Option<&'a [f32]>, y: &'a mut [f32], add: bool) -> Outputs<'a> {
        let y = Shards::new(y);
        Outputs { width, bias, y, add }
    }

    /// Puts the outputs of one row for the rows of weights from `first` in their place.
    pub(super) fn store(&self, row: usize, first: usize, values: &[f32]) {
        // SAFETY: these columns of `y` belong to this piece alone, and the piece runs on one thread.
        let y = unsafe { self.y.part(row * self.width + first, values.len()) };
        match (self.bias, self.add) {
            (None, false) => y.copy_from_slice(values),
            (None, true) => y.iter_mut().zip(values).for_each(|(y, v)| *y += v),
            (Some(bias), add) => {
                for ((y, v), bias) in y.iter_mut().zip(values).zip(&bias[first..]) {
                    let sum = v + bias;
                    *y = if add { *y + sum } else { sum };
                }
            }
        }
    }

    /// As `store`, for the first `len` lanes of a vector.
    #[inline(always)]
    pub(super) fn store_vector<S: Simd>(&self, s: S, row: usize, first: usize, len: usize, sums: S::F32) {
        // SAFETY: as in `store`.
        let y = unsafe { self.y.part(row * self.width + first, len) };
        let sums = match self.bias {
            Some(bias) => s.add(sums, s.load_some(&bias[first..][..len])),
            None => sums,
        };
        let sums = if self.add {
            s.add(s.load_some(y), sums)
        } else {
            sums
        };
        s.store_some(y, sums);
    }
}
