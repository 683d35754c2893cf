//! The paged store of keys and values of one layer.
//!
//! Invariant: both halves hold `blocks * kv_heads * KV_BLOCK * head_dim` values, zero until written; memory that was
//! never written costs nothing.

use std::alloc::{Layout, alloc_zeroed};

use half::f16;

/// Tokens of a block.
pub const KV_BLOCK: usize = 32;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
}

impl KvFormat {
    /// Bytes of a value.
    pub const fn value_bytes(self) -> usize {
        match self {
            KvFormat::F32 => 4,
            KvFormat::F16 => 2,
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
    F32 { k: Vec<f32>, v: Vec<f32> },
    F16 { k: Vec<u16>, v: Vec<u16> },
}

#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) blocks: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
}

impl Shape {
    /// Values of keys (or of values); `None` on overflow.
    fn values(self) -> Option<usize> {
        self.blocks
            .checked_mul(self.kv_heads)?
            .checked_mul(KV_BLOCK)?
            .checked_mul(self.head_dim)
    }

    /// Where the rows of one head of one block begin.
    ///
    /// # Panics
    /// If there is no such block.
    pub(super) fn head_at(self, block: u32, kv_head: usize) -> usize {
        let block = block as usize;
        assert!(
            block < self.blocks && kv_head < self.kv_heads,
            "block {block} of {}",
            self.blocks
        );
        (block * self.kv_heads + kv_head) * KV_BLOCK * self.head_dim
    }
}

impl KvLayer {
    /// An empty layer; `None` if the size overflows or the system has no such memory.
    pub fn new(format: KvFormat, blocks: usize, kv_heads: usize, head_dim: usize) -> Option<KvLayer> {
        let shape = Shape {
            blocks,
            kv_heads,
            head_dim,
        };
        let values = shape.values()?;
        let store = match format {
            KvFormat::F32 => Store::F32 {
                k: zeroed(values)?,
                v: zeroed(values)?,
            },
            KvFormat::F16 => Store::F16 {
                k: zeroed(values)?,
                v: zeroed(values)?,
            },
        };
        Some(KvLayer { store, shape })
    }

    /// Bytes of keys and values together; `None` on overflow.
    pub fn bytes(format: KvFormat, blocks: usize, kv_heads: usize, head_dim: usize) -> Option<usize> {
        Shape {
            blocks,
            kv_heads,
            head_dim,
        }
        .values()?
        .checked_mul(2 * format.value_bytes())
    }

    /// How the values are stored.
    pub fn format(&self) -> KvFormat {
        match self.store {
            Store::F32 { .. } => KvFormat::F32,
            Store::F16 { .. } => KvFormat::F16,
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
            let (from, to) = (shape.head_at(from, head), shape.head_at(to, head));
            let len = slots * shape.head_dim;
            match &mut self.store {
                Store::F32 { k, v } => [k, v].map(|half| half.copy_within(from..from + len, to)),
                Store::F16 { k, v } => [k, v].map(|half| half.copy_within(from..from + len, to)),
            };
        }
    }

    /// Copies out the key and the value of one token, `[head_dim]` each: for tests and for looking inside.
    ///
    /// # Panics
    /// If there is no such block, head or slot, or `k` or `v` is not of head_dim.
    pub fn read(&self, block: u32, kv_head: usize, slot: usize, k: &mut [f32], v: &mut [f32]) {
        assert!(slot < KV_BLOCK);
        let dim = self.shape.head_dim;
        let at = self.shape.head_at(block, kv_head) + slot * dim;
        let widen = |from: &[u16], to: &mut [f32]| {
            assert_eq!(from.len(), to.len());
            to.iter_mut()
                .zip(from)
                .for_each(|(to, &bits)| *to = f16::from_bits(bits).to_f32());
        };
        match &self.store {
            Store::F32 { k: keys, v: values } => {
                k.copy_from_slice(&keys[at..at + dim]);
                v.copy_from_slice(&values[at..at + dim]);
            }
            Store::F16 { k: keys, v: values } => {
                widen(&keys[at..at + dim], k);
                widen(&values[at..at + dim], v);
            }
        }
    }
}

/// A number whose zero is all zero bits.
trait Zero: Copy {}
impl Zero for f32 {}
impl Zero for u16 {}

/// `len` zeros straight from the system, which backs them with memory only when they are touched.
fn zeroed<T: Zero>(len: usize) -> Option<Vec<T>> {
    let layout = Layout::array::<T>(len).ok()?;
    if layout.size() == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the layout's size is not zero.
    let start = unsafe { alloc_zeroed(layout) }.cast::<T>();
    if start.is_null() {
        return None;
    }
    // SAFETY: `start` was just allocated by the global allocator for exactly `len` of `T`, and `T: Zero` says that
    // zeroed bytes are valid values.
    Some(unsafe { Vec::from_raw_parts(start, len, len) })
}
