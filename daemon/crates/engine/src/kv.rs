//! Keys and values of all sequences, in blocks of [`KV_BLOCK`] tokens. Invariant: every block is either free or in
//! exactly one table, and tables never hold more blocks than the cache has.
use hyprstream_kernels::{KV_BLOCK, KvFormat, KvLayer};
use hyprstream_model::Config;

/// The cache of one model: storage for each layer, and the blocks that are free.
pub struct KvCache {
    pub(crate) layers: Vec<KvLayer>,
    free: Vec<u32>,
    blocks: usize,
}

/// The blocks of one sequence, in the order of its positions. Goes back with [`KvCache::release`].
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<u32>,
}

impl BlockTable {
    /// A table that can grow to `tokens` positions without allocating.
    pub fn with_capacity(tokens: usize) -> BlockTable {
        BlockTable {
            blocks: Vec::with_capacity(tokens.div_ceil(KV_BLOCK)),
        }
    }

    /// Block numbers.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }
}

/// Fewer blocks are free than were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} KV blocks wanted, {free} free")]
pub struct OutOfBlocks {
    /// Blocks asked for.
    pub wanted: usize,
    /// Blocks free.
    pub free: usize,
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
            free: (0..count).rev().collect(),
            blocks,
        })
    }

    /// Tokens that fit, all sequences together.
    pub fn capacity_tokens(&self) -> usize {
        self.blocks.saturating_mul(KV_BLOCK)
    }

    /// Blocks that no sequence holds.
    pub fn free_blocks(&self) -> usize {
        self.free.len()
    }

    /// Makes room for `tokens` positions in all. On failure the table is as it was.
    pub fn reserve(&mut self, table: &mut BlockTable, tokens: usize) -> Result<(), OutOfBlocks> {
        let wanted = tokens.div_ceil(KV_BLOCK).saturating_sub(table.blocks.len());
        if wanted > self.free.len() {
            return Err(OutOfBlocks {
                wanted,
                free: self.free.len(),
            });
        }
        let rest = self.free.len() - wanted;
        table.blocks.extend(self.free.drain(rest..).rev());
        Ok(())
    }

    /// Takes a table's blocks back.
    pub fn release(&mut self, table: &mut BlockTable) {
        self.free.append(&mut table.blocks);
        debug_assert!(self.free.len() <= self.blocks);
    }
}
