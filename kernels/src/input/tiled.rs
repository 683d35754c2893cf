//! int8 activations of many generated tokens, in the order in which tiles and the vectors behind them read them.
//!
//! Invariant: rows are in blocks of equal height (the last may be lower), at most `TILE_ROWS`. For each block and each
//! group of 32 columns there are `TILE_ROWS` lines of codes and one line of each number; rows that a block lacks hold
//! anything.

use super::{Group, TILE_ROWS};
use crate::packed::layout::GROUP;
use crate::shards::Shards;

/// With fewer rows, dot products by vectors are as fast as tiles.
pub(crate) const ROWS_MIN: usize = 6;

/// Lines of numbers of a group: the scale; then the scaled sum and the negative sum of all 32, of the first 16, and of
/// the others.
pub(crate) const FLOATS: usize = 7;

/// Rows, spread over blocks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blocks {
    rows: usize,
    height: usize,
}

impl Blocks {
    pub(crate) fn new(rows: usize) -> Blocks {
        let height = rows.div_ceil(rows.div_ceil(TILE_ROWS).max(1));
        Blocks { rows, height }
    }

    pub(crate) fn count(self) -> usize {
        self.rows.div_ceil(self.height.max(1))
    }

    /// The rows of a block.
    pub(crate) fn rows(self, block: usize) -> std::ops::Range<usize> {
        block * self.height..self.rows.min((block + 1) * self.height)
    }

    /// A row's block, and its place in it.
    fn of(self, row: usize) -> (usize, usize) {
        (row / self.height.max(1), row % self.height.max(1))
    }
}

/// Where a block's activations begin; `groups` of each row.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    /// `[groups, TILE_ROWS, 32]`
    pub codes: &'a [i8],
    /// `[groups, FLOATS, TILE_ROWS]`
    pub floats: &'a [f32],
}

/// All blocks.
pub(super) struct Tiled {
    codes: Vec<i8>,
    floats: Vec<f32>,
}

impl Tiled {
    /// Room for so many blocks of so many groups; zeroed pages, which stay untouched until they are needed.
    pub(super) fn new(blocks: usize, groups: usize) -> Option<Tiled> {
        Tiled::bytes(blocks, groups)?;
        let lines = blocks * groups * TILE_ROWS;
        Some(Tiled {
            codes: vec![0; lines * GROUP],
            floats: vec![0.0; lines * FLOATS],
        })
    }

    pub(super) fn bytes(blocks: usize, groups: usize) -> Option<usize> {
        let line = GROUP + FLOATS * size_of::<f32>();
        blocks
            .checked_mul(groups)?
            .checked_mul(TILE_ROWS)?
            .checked_mul(line)
    }

    pub(super) fn block(&self, block: usize, groups: usize) -> Block<'_> {
        let lines = groups * TILE_ROWS;
        Block {
            codes: &self.codes[block * lines * GROUP..][..lines * GROUP],
            floats: &self.floats[block * lines * FLOATS..][..lines * FLOATS],
        }
    }

    pub(super) fn target(&mut self, blocks: Blocks, groups: usize) -> Target<'_> {
        Target {
            blocks,
            groups,
            codes: Shards::new(&mut self.codes),
            floats: Shards::new(&mut self.floats),
        }
    }
}

/// Where converted rows go.
pub(super) struct Target<'a> {
    blocks: Blocks,
    groups: usize,
    codes: Shards<'a, i8>,
    floats: Shards<'a, f32>,
}

impl Target<'_> {
    /// # Safety
    /// No other thread stores the same group of the same row.
    #[inline(always)]
    pub(super) unsafe fn put(&self, row: usize, group: usize, codes: &[i8; GROUP], of: &Group) {
        let (block, row) = self.blocks.of(row);
        let at = block * self.groups + group;
        let floats = [
            of.scale,
            of.scaled_sum,
            of.minus_sum as f32,
            of.scaled_halves[0],
            of.minus_halves[0] as f32,
            of.scaled_halves[1],
            of.minus_halves[1] as f32,
        ];
        // SAFETY: these are places of this group and row alone.
        unsafe {
            self.codes
                .part((at * TILE_ROWS + row) * GROUP, GROUP)
                .copy_from_slice(codes);
            for (line, value) in floats.into_iter().enumerate() {
                self.floats.part((at * FLOATS + line) * TILE_ROWS + row, 1)[0] = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_every_row_once() {
        for rows in 0..70 {
            let blocks = Blocks::new(rows);
            let mut seen = 0;
            for block in 0..blocks.count() {
                let of_block = blocks.rows(block);
                assert_eq!(of_block.start, seen);
                assert!((1..=TILE_ROWS).contains(&of_block.len()), "{rows}: {of_block:?}");
                for row in of_block.clone() {
                    assert_eq!(blocks.of(row), (block, row - of_block.start));
                }
                seen = of_block.end;
            }
            assert_eq!(seen, rows);
        }
    }
}
