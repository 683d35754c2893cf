//! Keys and values of all sequences, in blocks of [`KV_BLOCK`] tokens. Invariant: tables never hold more blocks than the
//! cache has, and a block that two tables hold is written by neither.
use crate::blocks::{BlockTable, Blocks, OutOfBlocks};
use hyprstream_kernels::{KV_BLOCK, KvFormat, KvLayer};
use hyprstream_model::Config;

/// The cache of one model: storage for each layer, and the books about its blocks.
pub struct KvCache {
    pub(crate) layers: Vec<KvLayer>,
    blocks: Blocks,
    /// Blocks that have memory behind them, and the layer whose next ones get theirs.
    ready: usize,
    next_layer: usize,
}

/// Blocks for which memory is made ready at once, and how many at least are ready beyond those that were ever used: in
/// f16, the keys of as many blocks are a huge page or a few.
const AHEAD: usize = 32;

/// Blocks of caches, by what they are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvBlocks {
    /// All.
    pub total: usize,
    /// Held by sequences that run.
    pub in_use: usize,
    /// Held by none, kept so that their text need not be computed again.
    pub kept: usize,
}

impl KvCache {
    /// Storage for `blocks` blocks of every layer. `None` if there is no memory for it. The pages are touched on use.
    pub fn new(config: &Config, format: KvFormat, blocks: usize) -> Option<KvCache> {
        let count = u32::try_from(blocks).ok()?;
        let layers = (0..config.layers)
            .map(|_| KvLayer::new(format, blocks, config.kv_heads, config.head_dim))
            .collect::<Option<Vec<_>>>()?;
        Some(KvCache {
            layers,
            blocks: Blocks::new(count),
            ready: 0,
            next_layer: 0,
        })
    }

    /// Bytes of [`KvCache::new`], the books among them. Saturates.
    pub fn bytes(config: &Config, format: KvFormat, blocks: usize) -> u64 {
        let layer = KvLayer::bytes(format, blocks, config.kv_heads, config.head_dim);
        let layers = layer.and_then(|bytes| bytes.checked_mul(config.layers));
        layers.map_or(u64::MAX, |bytes| {
            Blocks::bytes(blocks).saturating_add(bytes as u64)
        })
    }

    /// Gets a little of the memory that sequences will write to next, for times when nothing is computed: a step that touches
    /// it first waits until the system has cleared it. False when enough is ready.
    pub fn make_ready(&mut self) -> bool {
        let wanted = (self.blocks.reached() + AHEAD).min(self.blocks.count());
        if self.ready >= wanted || self.layers.is_empty() {
            return false;
        }
        self.layers[self.next_layer].back_blocks(self.ready..self.ready + AHEAD);
        self.next_layer += 1;
        if self.next_layer == self.layers.len() {
            self.next_layer = 0;
            self.ready += AHEAD;
        }
        true
    }

    /// Tokens that fit, all sequences together.
    pub fn capacity_tokens(&self) -> usize {
        self.blocks.count().saturating_mul(KV_BLOCK)
    }

    /// Blocks that a sequence can get: free ones, and kept ones that nobody uses.
    pub fn free_blocks(&self) -> usize {
        self.blocks.available()
    }

    /// What its blocks are for.
    pub fn usage(&self) -> KvBlocks {
        KvBlocks {
            total: self.blocks.count(),
            in_use: self.blocks.count() - self.blocks.available(),
            kept: self.blocks.kept(),
        }
    }

    /// Makes room for `tokens` positions in all. On failure the table is as it was.
    pub fn reserve(&mut self, table: &mut BlockTable, tokens: usize) -> Result<(), OutOfBlocks> {
        self.blocks.reserve(table, tokens)
    }

    /// The table's part in the blocks that it holds: one that several hold counts once in all.
    pub fn share(&self, table: &BlockTable) -> f64 {
        self.blocks.share(table)
    }

    /// Leaves at most so many kept blocks of an owner's, those used last.
    pub fn trim(&mut self, owner: u32, kept_max: usize) {
        self.blocks.trim(owner, kept_max);
    }

    /// Fills an empty table with what this owner's earlier sequences left of `tokens`, and says how many of them need not
    /// be computed.
    pub fn adopt(&mut self, table: &mut BlockTable, owner: u32, tokens: &[u32]) -> usize {
        let (known, copy) = self.blocks.adopt(table, owner, tokens);
        if let Some(copy) = copy {
            for layer in &mut self.layers {
                layer.copy_block(copy.from, copy.to, copy.slots);
            }
        }
        known
    }

    /// Lets this owner's other sequences use the full blocks of a table, whose first `tokens` are computed.
    pub fn publish(&mut self, table: &mut BlockTable, owner: u32, tokens: &[u32]) {
        self.blocks.publish(table, owner, tokens);
    }

    /// Takes a table's blocks back and keeps the computed `tokens` for this owner until the room is needed.
    pub fn keep(&mut self, table: &mut BlockTable, owner: u32, tokens: &[u32]) {
        self.blocks.keep(table, owner, tokens);
    }

    /// Takes a table's blocks back.
    pub fn release(&mut self, table: &mut BlockTable) {
        self.blocks.release(table);
    }

    /// Takes a table's blocks back whose content must not be used again.
    pub fn discard(&mut self, table: &mut BlockTable) {
        self.blocks.discard(table);
    }

    /// Makes sure that nothing computed so far is used again.
    pub fn forget_all(&mut self) {
        self.blocks.forget_all();
    }
}
