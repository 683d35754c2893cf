//! Which matrices are packed, and where each goes. Invariant: the plan follows from names, formats and shapes alone, so a
//! file made from the same model fits it.

use super::table::{ALIGNMENT, PackedTensor};
use crate::weights::{Matrix, Weights};
use hyprstream_kernels::{MatrixRef, Pool, pack, packed_bytes};
use std::io;

/// Packed bytes that are made in one go: few enough to stay in the cache on their way to a file.
const STEP_BYTES: usize = 4 << 20;
/// Rows that the layout keeps together.
const PANEL_ROWS: usize = 16;

/// Places for packed matrices.
pub(super) struct Plan {
    pub tensors: Vec<PackedTensor>,
    /// Of each tensor, which of the model's factors it is.
    pub factors: Vec<usize>,
    /// Bytes of all of them.
    pub len: usize,
}

impl Plan {
    /// All matrices that have a packed form, one after the other.
    pub fn of(weights: &Weights) -> Plan {
        let mut plan = Plan {
            tensors: Vec::new(),
            factors: Vec::new(),
            len: 0,
        };
        for (at, (name, matrix)) in weights.factors().enumerate() {
            let (format, rows, cols) = (matrix.format(), matrix.rows(), matrix.cols());
            let place = || {
                let len = packed_bytes(format, rows, cols)?;
                let offset = plan.len.checked_next_multiple_of(ALIGNMENT)?;
                Some((offset, len, offset.checked_add(len)?))
            };
            if let Some((offset, len, end)) = place() {
                plan.tensors.push(PackedTensor {
                    name,
                    format,
                    rows,
                    cols,
                    offset,
                    len,
                });
                plan.factors.push(at);
                plan.len = end;
            }
        }
        plan
    }

    /// Packs everything, in order, and gives it to `sink` in parts, with the place of each. The pages of the model's file
    /// are given back on the way.
    pub fn pack(
        &self,
        weights: &Weights,
        pool: &Pool,
        sink: &mut dyn FnMut(usize, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let factors: Vec<&Matrix> = weights.factors().map(|(_, matrix)| matrix).collect();
        let mut part = Vec::new();
        for (tensor, at) in self.tensors.iter().zip(&self.factors) {
            let Some(matrix) = factors.get(*at) else { continue };
            let w = matrix.as_ref();
            let panel = tensor.len / w.rows.div_ceil(PANEL_ROWS).max(1);
            let step = (STEP_BYTES / panel.max(1)).max(1) * PANEL_ROWS;
            let row_bytes = w.bytes.len() / w.rows.max(1);
            let mut place = tensor.offset;
            for bytes in w.bytes.chunks((step * row_bytes).max(1)) {
                let rows = bytes.len() / row_bytes.max(1);
                let piece = MatrixRef { rows, bytes, ..w };
                part.resize(rows.div_ceil(PANEL_ROWS) * panel, 0);
                pack(pool, piece, &mut part);
                sink(place, &part)?;
                place += part.len();
            }
            matrix.forget();
        }
        Ok(())
    }
}
