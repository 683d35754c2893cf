//! int8 activations of many generated tokens, in the order in which tiles and the vectors behind them read them.
//!
//! Invariant: rows are in blocks of equal height (the last may be lower), at most `TILE_ROWS`. For each block and each
//! group of 32 columns there are `TILE_ROWS` lines of codes and one line of each number; rows that a block lacks hold
//! anything.

use super::{Group, TILE_ROWS};
use crate::packed::layout::GROUP;
use crate::shards::Shards;

/// With fewer rows, dot products by vectors are as fast as tiles. More than the greatest number have no room.
pub(crate) const ROWS: std::ops::RangeInclusive<usize> = 6..=128;

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

/// The codes of a group, as a tile. Tiles that begin amid a cache line load slowly.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Codes(pub [[i8; GROUP]; TILE_ROWS]);

/// The numbers of a group.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Floats(pub [[f32; TILE_ROWS]; FLOATS]);

/// A block's activations, group after group.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    pub codes: &'a [Codes],
    pub floats: &'a [Floats],
}

/// All blocks.
pub(super) struct Tiled {
    codes: Vec<Codes>,
    floats: Vec<Floats>,
}

impl Tiled {
    /// Room for so many rows of so many groups, as far as `ROWS` goes.
    pub(super) fn new(rows: usize, groups: usize) -> Option<Tiled> {
        let groups = Blocks::new(rows.min(*ROWS.end())).count().checked_mul(groups)?;
        Some(Tiled {
            codes: super::filled(Codes([[0; GROUP]; TILE_ROWS]), groups)?,
            floats: super::filled(Floats([[0.0; TILE_ROWS]; FLOATS]), groups)?,
        })
    }

    pub(super) fn bytes(rows: usize, groups: usize) -> Option<usize> {
        let groups = Blocks::new(rows.min(*ROWS.end())).count().checked_mul(groups)?;
        groups.checked_mul(size_of::<Codes>() + size_of::<Floats>())
    }

    pub(super) fn block(&self, block: usize, groups: usize) -> Block<'_> {
        Block {
            codes: &self.codes[block * groups..][..groups],
            floats: &self.floats[block * groups..][..groups],
        }
    }

    pub(super) fn target(&mut self, blocks: Blocks, groups: usize) -> Target<'_> {
        let all = blocks.count() * groups;
        Target {
            blocks,
            groups,
            codes: Shards::new(&mut self.codes[..all]),
            floats: Shards::new(&mut self.floats[..all]),
        }
    }
}

/// Where converted rows go.
pub(super) struct Target<'a> {
    blocks: Blocks,
    groups: usize,
    codes: Shards<'a, Codes>,
    floats: Shards<'a, Floats>,
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
        // Rows of one group are for several threads: only places of this row are touched, and none is borrowed.
        let (to, lines) = (self.codes.place(at), self.floats.place(at));
        // SAFETY: `place` checked that the group is there; these are places of this group and row alone.
        unsafe {
            (&raw mut (*to).0[row]).write(*codes);
            for (line, value) in floats.into_iter().enumerate() {
                (&raw mut (*lines).0[line][row]).write(value);
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
