//! Products of weight matrices, as they lie in the file, with activations in f32.
//!
//! Invariant: an output's value depends on its weights' row and its token alone, not on the other tokens of the batch
//! nor on the number of threads.

use crate::pool::Pool;
use crate::quant::Format;

/// A weight matrix `[rows, cols]` in file layout. Any alignment.
#[derive(Clone, Copy, Debug)]
pub struct MatrixRef<'a> {
    /// How the values are stored.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Row after row of blocks, `rows * format.row_bytes(cols)` bytes.
    pub bytes: &'a [u8],
}

impl<'a> MatrixRef<'a> {
    /// A matrix over `bytes`; `None` if the length is not exactly that of the shape.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<MatrixRef<'a>> {
        let len = format.row_bytes(cols)?.checked_mul(rows)?;
        (len == bytes.len()).then_some(MatrixRef {
            format,
            rows,
            cols,
            bytes,
        })
    }

    /// The bytes of row `i`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, i: usize) -> &'a [u8] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        let row_bytes = self.bytes.len() / self.rows;
        &self.bytes[i * row_bytes..(i + 1) * row_bytes]
    }
}

/// One product of `matmul_many`.
pub struct Output<'a> {
    /// The weights.
    pub w: MatrixRef<'a>,
    /// Added to every token's outputs: `[rows]`.
    pub bias: Option<&'a [f32]>,
    /// The result: `[tokens, rows]`.
    pub y: &'a mut [f32],
}

/// `y[t, o] = sum_i w[o, i] * x[t, i] (+ bias[o])`; x: `[tokens, cols]`, y: `[tokens, rows]`. No allocation.
///
/// # Panics
/// If shapes disagree.
pub fn matmul(pool: &Pool, w: MatrixRef<'_>, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    matmul_many(pool, x, &mut [Output { w, bias, y }]);
}

/// Several matrices with the same input in one pass over the pool (q, k, v; gate, up). No allocation.
///
/// # Panics
/// If shapes disagree.
pub fn matmul_many(_pool: &Pool, x: &[f32], outputs: &mut [Output<'_>]) {
    for output in outputs {
        let w = output.w;
        assert_eq!(
            MatrixRef::new(w.format, w.rows, w.cols, w.bytes).map(|w| w.rows),
            Some(w.rows)
        );
        assert_eq!(x.len() * w.rows, output.y.len() * w.cols);
        crate::reference::matmul(w, x, output.bias, output.y);
    }
}
