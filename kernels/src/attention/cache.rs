//! The paged store of keys and values of one layer.
//!
//! Invariant: both halves hold `blocks * kv_heads * KV_BLOCK` rows of `head_dim` values, zero until written; memory that was
//! never written costs nothing.

use std::ops::Range;

use super::pages::Pages;
use super::value::{Rows, Value};

/// Tokens of a block.
pub const KV_BLOCK: usize = 32;

/// Values of a q8 cache that share a scale: so few that a channel of large keys costs only its neighbours precision.
pub(super) const Q8_GROUP: usize = 32;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// Whole numbers from -127 to 127 times a 32-bit float for each 32 values of a head.
    Q8,
}

impl KvFormat {
    /// Bytes of `head_dim` values: one key or one value of one head. `None` on overflow.
    pub fn row_bytes(self, head_dim: usize) -> Option<usize> {
        match self {
            KvFormat::F32 => head_dim.checked_mul(4),
            KvFormat::F16 => head_dim.checked_mul(2),
            KvFormat::Q8 => head_dim.checked_add(4 * head_dim.div_ceil(Q8_GROUP)),
        }
    }
}

/// One layer's keys and values: blocks of `KV_BLOCK` tokens, each `[kv_head][token][head_dim]`.
pub struct KvLayer {
    pub(super) store: Store,
    pub(super) shape: Shape,
}

/// Keys and values, in one of the formats. f16 values are kept as their bits.
pub(super) enum Store {
    F32([Half<f32>; 2]),
    F16([Half<u16>; 2]),
    Q8([Half<i8>; 2]),
}

/// Calls a generic function with the two halves of a store, of whatever type.
macro_rules! with_store {
    ($store:expr, $halves:ident => $call:expr) => {
        match $store {
            crate::attention::cache::Store::F32($halves) => $call,
            crate::attention::cache::Store::F16($halves) => $call,
            crate::attention::cache::Store::Q8($halves) => $call,
        }
    };
}
pub(super) use with_store;

/// All keys of a layer, or all values: `[rows, head_dim]`, and `[rows, T::scales(head_dim)]`.
pub(super) struct Half<T> {
    pub(super) values: Pages<T>,
    pub(super) scales: Pages<f32>,
}

impl<T: Value> Half<T> {
    fn new(shape: Shape) -> Option<Half<T>> {
        let rows = shape.rows()?;
        Some(Half {
            values: Pages::zeroed(rows.checked_mul(shape.head_dim)?)?,
            scales: Pages::zeroed(rows.checked_mul(T::scales(shape.head_dim))?)?,
        })
    }

    fn pair(shape: Shape) -> Option<[Half<T>; 2]> {
        Some([Half::new(shape)?, Half::new(shape)?])
    }

    fn copy(&mut self, shape: Shape, from: usize, to: usize, rows: usize) {
        let (dim, scales) = (shape.head_dim, T::scales(shape.head_dim));
        self.values.copy_within(from * dim..(from + rows) * dim, to * dim);
        self.scales
            .copy_within(from * scales..(from + rows) * scales, to * scales);
    }

    fn back(&self, shape: Shape, rows: Range<usize>) {
        let (dim, scales) = (shape.head_dim, T::scales(shape.head_dim));
        self.values.back(rows.start * dim..rows.end * dim);
        self.scales.back(rows.start * scales..rows.end * scales);
    }

    /// Rows `row..row + rows`.
    #[inline(always)]
    pub(super) fn rows(&self, shape: Shape, row: usize, rows: usize) -> Rows<'_, T> {
        let (dim, scales) = (shape.head_dim, T::scales(shape.head_dim));
        Rows {
            values: &self.values[row * dim..(row + rows) * dim],
            scales: &self.scales[row * scales..(row + rows) * scales],
            dim,
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) blocks: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl Shape {
    /// Rows of keys (or of values); `None` on overflow.
    fn rows(self) -> Option<usize> {
        self.blocks.checked_mul(self.kv_heads)?.checked_mul(KV_BLOCK)
    }

    /// The first of the `KV_BLOCK` rows of one head of one block.
    ///
    /// # Panics
    /// If there is no such block.
    #[inline(always)]
    pub(super) fn row_of(self, block: u32, kv_head: usize) -> usize {
        let block = block as usize;
        assert!(
            block < self.blocks && kv_head < self.kv_heads,
            "block {block} of {}",
            self.blocks
        );
        (block * self.kv_heads + kv_head) * KV_BLOCK
    }
}

impl KvLayer {
    /// Has the system back these blocks' memory, as far as there are such, which else happens when they are first written.
    pub fn back_blocks(&self, blocks: Range<usize>) {
        let per_block = self.shape.kv_heads * KV_BLOCK;
        let rows = blocks.start * per_block..blocks.end * per_block;
        with_store!(&self.store, halves => halves.iter().for_each(|half| half.back(self.shape, rows.clone())));
    }

    /// An empty layer; `None` if the size overflows or the system has no such memory.
    pub fn new(format: KvFormat, blocks: usize, kv_heads: usize, head_dim: usize) -> Option<KvLayer> {
        let shape = Shape {
            blocks,
            kv_heads,
            head_dim,
        };
        let store = match format {
            KvFormat::F32 => Store::F32(Half::pair(shape)?),
            KvFormat::F16 => Store::F16(Half::pair(shape)?),
            KvFormat::Q8 => Store::Q8(Half::pair(shape)?),
        };
        Some(KvLayer { store, shape })
    }

    /// Bytes of keys and values together; `None` on overflow.
    pub fn bytes(format: KvFormat, blocks: usize, kv_heads: usize, head_dim: usize) -> Option<usize> {
        let shape = Shape {
            blocks,
            kv_heads,
            head_dim,
        };
        shape
            .rows()?
            .checked_mul(format.row_bytes(head_dim)?)?
            .checked_mul(2)
    }

    /// How the values are stored.
    pub fn format(&self) -> KvFormat {
        match self.store {
            Store::F32(_) => KvFormat::F32,
            Store::F16(_) => KvFormat::F16,
            Store::Q8(_) => KvFormat::Q8,
        }
    }

    /// Blocks of the layer.
    pub fn blocks(&self) -> usize {
        self.shape.blocks
    }

    /// Copies the first `slots` keys and values of block `from` over those of block `to`, in all heads: a sequence that
    /// goes on from a shared block writes to a copy.
    ///
    /// # Panics
    /// If there is no such block, or it has fewer slots.
    pub fn copy_block(&mut self, from: u32, to: u32, slots: usize) {
        assert!(slots <= KV_BLOCK, "{slots} slots of a block");
        let shape = self.shape;
        for head in 0..shape.kv_heads {
            let (from, to) = (shape.row_of(from, head), shape.row_of(to, head));
            with_store!(&mut self.store, halves => {
                for half in halves {
                    half.copy(shape, from, to, slots);
                }
            });
        }
    }

    /// Copies out the key and the value of one token, `[head_dim]` each: for tests and for looking inside.
    ///
    /// # Panics
    /// If there is no such block, head or slot, or `k` or `v` is not of head_dim.
    pub fn read(&self, block: u32, kv_head: usize, slot: usize, k: &mut [f32], v: &mut [f32]) {
        assert!(slot < KV_BLOCK);
        let shape = self.shape;
        let row = shape.row_of(block, kv_head) + slot;
        with_store!(&self.store, halves => {
            for (half, to) in halves.iter().zip([k, v]) {
                half.rows(shape, row, 1).read(to);
            }
        });
    }
}
