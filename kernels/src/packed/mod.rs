//! Quantised weights in the order in which kernels read them, the same for every instruction set.
//!
//! Invariant: a `PackedRef` from `new` has exactly the bytes of its shape, on a 64-byte boundary, and nothing in them can
//! lead a kernel outside.
//!
//! Rows lie in panels of 16 (the last filled up with zeros), each one piece: its scales, filled up to 64 bytes, then
//! its codes. Codes are unsigned and lie in lines of 64 bytes, of which the n-th four bytes are four columns of the
//! n-th row: an operand of a dot product of bytes, or a row of a tile. See `layout` for what each format has.

mod extract;
pub(crate) mod layout;
mod pack;
pub(crate) mod registers;

use crate::quant::Format;
pub(crate) use layout::Layout;
pub use pack::{pack, unpack_row};

/// The name of this layout, for those who keep packed weights in files: it changes with any change of the bytes.
pub const PACKED_LAYOUT: &str = "p16-1";

/// Bytes of a packed matrix; `None` for plain formats, for a `cols` that is no whole number of blocks, and where the
/// size overflows.
pub fn packed_bytes(format: Format, rows: usize, cols: usize) -> Option<usize> {
    let panel = Layout::of(format)?.panel_bytes(cols)?;
    rows.div_ceil(layout::PANEL).checked_mul(panel)
}

/// A packed weight matrix `[rows, cols]`.
#[derive(Clone, Copy, Debug)]
pub struct PackedRef<'a> {
    /// How the values were stored in the file.
    pub format: Format,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Panel after panel, `packed_bytes(format, rows, cols)` bytes on a 64-byte boundary.
    pub bytes: &'a [u8],
}

impl<'a> PackedRef<'a> {
    /// A matrix over `bytes`; `None` if their length is not that of the shape, or they do not begin on a 64-byte
    /// boundary.
    pub fn new(format: Format, rows: usize, cols: usize, bytes: &'a [u8]) -> Option<PackedRef<'a>> {
        let whole = packed_bytes(format, rows, cols)? == bytes.len();
        (whole && bytes.as_ptr().addr().is_multiple_of(layout::LINE)).then_some(PackedRef {
            format,
            rows,
            cols,
            bytes,
        })
    }

    /// Number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.rows.div_ceil(layout::PANEL)
    }

    /// The bytes of panel `i`: its scales, then its codes.
    pub(crate) fn panel(&self, i: usize) -> &'a [u8] {
        let len = self.bytes.len() / self.panels();
        &self.bytes[i * len..(i + 1) * len]
    }
}
