//! Which blocks of a KV cache are free, held or kept for their content, and what text is in them. Invariant: a block is
//! free, or held by tables, or kept; a full block that others may read is never written again.
//!
//! Content is found by a chain: a full block's key is a hash, under a random seed, of its owner, the block before it and
//! its own tokens. A hit is compared token by token, so a collision costs a miss and never a wrong answer. Another uid's
//! content is never found, whatever the text, so neither answers nor times tell one user what another asked.
use hyprstream_kernels::KV_BLOCK;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

/// The blocks of one sequence, in the order of its positions. Goes back with `Blocks::release`.
#[derive(Debug, Default)]
pub struct BlockTable {
    blocks: Vec<u32>,
    /// Full blocks whose content can be found by others, or is found in a block of the same content.
    published: usize,
    /// The last of those.
    chain: Link,
}

impl BlockTable {
    /// A table that can grow to `tokens` positions without allocating.
    pub fn with_capacity(tokens: usize) -> BlockTable {
        BlockTable {
            blocks: Vec::with_capacity(tokens.div_ceil(KV_BLOCK)),
            ..BlockTable::default()
        }
    }

    /// Block numbers.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }
}

/// Fewer blocks can be had than were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} KV blocks wanted, {free} free")]
pub struct OutOfBlocks {
    /// Blocks asked for.
    pub wanted: usize,
    /// Blocks free, or kept and not in use.
    pub free: usize,
}

/// What stands before a block's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Link {
    /// Nothing: it is a text's first.
    #[default]
    Start,
    /// The content that a block had while it was of this generation.
    After { block: u32, generation: u32 },
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Tables that hold it.
    holders: u32,
    /// Changes when its content can no longer be found.
    generation: u32,
    /// Tokens of its content that can be found; 0 if none.
    len: usize,
    owner: u32,
    before: Link,
    key: u64,
    /// When its content was last of use; what is oldest goes first.
    used: u64,
}

/// A block to copy before a table is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// The block with the content.
    pub from: u32,
    /// The table's own.
    pub to: u32,
    /// Positions to copy.
    pub slots: usize,
}

/// The books of one cache.
pub struct Blocks {
    blocks: Vec<Block>,
    /// `[blocks, KV_BLOCK]` tokens.
    tokens: Vec<u32>,
    free: Vec<u32>,
    /// Blocks from here on were never handed out.
    reached: usize,
    /// Full blocks by key.
    index: HashMap<u64, u32>,
    /// Blocks that nobody holds and whose content is kept.
    kept: usize,
    clock: u64,
    seed: RandomState,
    oldest: Vec<(u64, u32)>,
}

impl Blocks {
    /// `count` free blocks.
    pub fn new(count: u32) -> Blocks {
        let blocks = count as usize;
        Blocks {
            blocks: vec![Block::default(); blocks],
            tokens: vec![0; blocks * KV_BLOCK],
            free: (0..count).rev().collect(),
            reached: 0,
            // Twice the room, so that coming and going never makes it grow.
            index: HashMap::with_capacity(blocks * 2),
            kept: 0,
            clock: 0,
            seed: RandomState::new(),
            oldest: Vec::with_capacity(blocks),
        }
    }

    /// Bytes of [`Blocks::new`].
    pub fn bytes(count: usize) -> u64 {
        // A hash map holds seven entries in eight places, a power of two of them, with a byte more each.
        let places = count.saturating_mul(2).saturating_mul(8).div_ceil(7).max(16);
        let places = places.checked_next_power_of_two().unwrap_or(usize::MAX) as u64;
        let place = size_of::<(u64, u32)>() + 1;
        let tokens = KV_BLOCK * size_of::<u32>();
        let block = size_of::<Block>() + tokens + size_of::<u32>() + size_of::<(u64, u32)>();
        let index = places.saturating_mul(place as u64).saturating_add(64);
        (count as u64).saturating_mul(block as u64).saturating_add(index)
    }

    pub fn count(&self) -> usize {
        self.blocks.len()
    }

    /// How many of the blocks, from the first on, were ever handed out. The others are free and come last.
    pub fn reached(&self) -> usize {
        self.reached
    }

    /// Blocks that nobody holds and that hold no text.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Blocks that a table can get: free ones and kept ones.
    pub fn available(&self) -> usize {
        self.free.len() + self.kept
    }

    /// Makes room for `tokens` positions in all; kept content gives way, oldest first. On failure the table is as it was.
    pub fn reserve(&mut self, table: &mut BlockTable, tokens: usize) -> Result<(), OutOfBlocks> {
        let wanted = tokens.div_ceil(KV_BLOCK).saturating_sub(table.blocks.len());
        if wanted > self.available() {
            return Err(OutOfBlocks {
                wanted,
                free: self.available(),
            });
        }
        self.evict(wanted.saturating_sub(self.free.len()), None);
        for _ in 0..wanted {
            if let Some(block) = self.free.pop() {
                self.blocks[block as usize].holders = 1;
                self.reached = self.reached.max(block as usize + 1);
                table.blocks.push(block);
            }
        }
        Ok(())
    }

    /// The table's part in the blocks that it holds: one that several hold counts once in all.
    pub fn share(&self, table: &BlockTable) -> f64 {
        let holders = |number: &u32| self.blocks[*number as usize].holders.max(1);
        table
            .blocks
            .iter()
            .map(|number| 1.0 / f64::from(holders(number)))
            .sum()
    }

    /// Leaves at most `kept_max` kept blocks of an owner's, those used last.
    pub fn trim(&mut self, owner: u32, kept_max: usize) {
        if self.kept <= kept_max {
            return;
        }
        let kept = self.blocks.iter().filter(|b| b.is_kept() && b.owner == owner);
        self.evict(kept.count().saturating_sub(kept_max), Some(owner));
    }

    /// Frees the `count` kept blocks, of this owner's where one is named, that were of use longest ago.
    fn evict(&mut self, count: usize, owner: Option<u32>) {
        if count == 0 {
            return;
        }
        let mut oldest = std::mem::take(&mut self.oldest);
        oldest.clear();
        let theirs = |block: &Block| owner.is_none_or(|owner| owner == block.owner);
        let numbered = self.blocks.iter().zip(0..);
        let kept = numbered.filter(|(block, _)| block.is_kept() && theirs(block));
        oldest.extend(kept.map(|(block, number)| (block.used, number)));
        if count < oldest.len() {
            oldest.select_nth_unstable(count);
        }
        for &(_, number) in oldest.iter().take(count) {
            self.forget(number);
        }
        self.oldest = oldest;
    }

    /// Makes a block's content unfindable; frees the block unless somebody holds it.
    fn forget(&mut self, number: u32) {
        let block = &mut self.blocks[number as usize];
        if block.len == 0 {
            return;
        }
        if block.len == KV_BLOCK && self.index.get(&block.key) == Some(&number) {
            self.index.remove(&block.key);
        }
        block.len = 0;
        block.generation = block.generation.wrapping_add(1);
        if block.holders == 0 {
            self.kept -= 1;
            self.free.push(number);
        }
    }

    /// Forgets all content: none of it can be trusted.
    pub fn forget_all(&mut self) {
        for number in 0..self.blocks.len() as u32 {
            self.forget(number);
        }
    }

    /// Fills an empty table with what is kept of `tokens`, and says how many of them it has now. Where that ends within a
    /// block, the table gets a copy to write to, which the caller makes before anything else is asked of these books.
    pub fn adopt(&mut self, table: &mut BlockTable, owner: u32, tokens: &[u32]) -> (usize, Option<Copy>) {
        debug_assert!(table.blocks.is_empty());
        let (full, _) = tokens.as_chunks::<KV_BLOCK>();
        for content in full {
            let Some(number) = self.find(owner, table.chain, content) else {
                break;
            };
            self.hold(number);
            table.blocks.push(number);
            table.chain = self.link(number);
        }
        table.published = table.blocks.len();
        let known = table.blocks.len() * KV_BLOCK;
        let (from, slots) = self.longest(owner, table.chain, &tokens[known..]);
        if slots == 0 {
            return (known, None);
        }
        // Held, lest it be the one that gives way.
        self.hold(from);
        let room = self.reserve(table, known + slots);
        self.let_go(from);
        match (room, table.blocks.last()) {
            (Ok(()), Some(&to)) => (known + slots, Some(Copy { from, to, slots })),
            _ => (known, None),
        }
    }

    /// The full block with this content.
    fn find(&self, owner: u32, before: Link, content: &[u32; KV_BLOCK]) -> Option<u32> {
        let number = *self.index.get(&self.key(owner, before, content))?;
        let block = &self.blocks[number as usize];
        let same = block.len == KV_BLOCK && block.owner == owner && block.before == before;
        (same && self.content(number) == content).then_some(number)
    }

    /// The block that begins with the most of `tokens`, and with how many.
    fn longest(&self, owner: u32, before: Link, tokens: &[u32]) -> (u32, usize) {
        let mut best = (0, 0);
        for (block, number) in self.blocks.iter().zip(0..) {
            if block.len > 0 && block.owner == owner && block.before == before {
                let pairs = self.content(number).iter().zip(tokens);
                let same = pairs.take_while(|(a, b)| a == b).count();
                if same > best.1 {
                    best = (number, same);
                }
            }
        }
        best
    }

    fn content(&self, number: u32) -> &[u32] {
        let first = number as usize * KV_BLOCK;
        &self.tokens[first..first + self.blocks[number as usize].len]
    }

    fn key(&self, owner: u32, before: Link, content: &[u32]) -> u64 {
        self.seed.hash_one((owner, before, content))
    }

    fn link(&self, number: u32) -> Link {
        Link::After {
            block: number,
            generation: self.blocks[number as usize].generation,
        }
    }

    /// Whether the content that a link names can still be found.
    fn is_alive(&self, link: Link) -> bool {
        match link {
            Link::Start => true,
            Link::After { block, generation } => {
                let block = &self.blocks[block as usize];
                block.len > 0 && block.generation == generation
            }
        }
    }

    fn hold(&mut self, number: u32) {
        let block = &mut self.blocks[number as usize];
        self.kept -= usize::from(block.is_kept());
        block.holders += 1;
    }

    fn let_go(&mut self, number: u32) {
        let block = &mut self.blocks[number as usize];
        debug_assert!(block.holders > 0);
        block.holders = block.holders.saturating_sub(1);
        match (block.holders, block.len) {
            (0, 0) => self.free.push(number),
            (0, _) => self.kept += 1,
            _ => {}
        }
    }

    /// Lets others find the table's full blocks. `tokens` are those of the positions that are computed.
    pub fn publish(&mut self, table: &mut BlockTable, owner: u32, tokens: &[u32]) {
        let (full, _) = tokens.as_chunks::<KV_BLOCK>();
        for content in full.iter().skip(table.published) {
            // What stood before is gone, so nobody could find what follows.
            if !self.is_alive(table.chain) {
                return;
            }
            let number = match self.find(owner, table.chain, content) {
                Some(number) => number,
                None => {
                    let number = table.blocks[table.published];
                    self.show(number, owner, table.chain, content);
                    number
                }
            };
            table.chain = self.link(number);
            table.published += 1;
        }
    }

    fn show(&mut self, number: u32, owner: u32, before: Link, content: &[u32]) {
        let first = number as usize * KV_BLOCK;
        self.tokens[first..first + content.len()].copy_from_slice(content);
        let key = self.key(owner, before, content);
        if content.len() == KV_BLOCK {
            self.index.insert(key, number);
        }
        self.clock += 1;
        let block = &mut self.blocks[number as usize];
        (block.len, block.owner, block.before) = (content.len(), owner, before);
        (block.key, block.used) = (key, self.clock);
    }

    /// Takes a table's blocks back and keeps what is computed of `tokens`, the begun block at the end too.
    pub fn keep(&mut self, table: &mut BlockTable, owner: u32, tokens: &[u32]) {
        self.publish(table, owner, tokens);
        let (full, rest) = tokens.as_chunks::<KV_BLOCK>();
        let mut last = table.chain;
        if table.published == full.len() && !rest.is_empty() && self.is_alive(last) {
            let (known, same) = self.longest(owner, last, rest);
            if same == rest.len() {
                last = self.link(known);
            } else {
                // A kept beginning of what is kept now would only take room.
                if same > 0 && self.content(known).len() == same && self.blocks[known as usize].holders == 0 {
                    self.forget(known);
                }
                let number = table.blocks[table.published];
                self.show(number, owner, last, rest);
                last = self.link(number);
            }
        }
        self.touch(last);
        self.release(table);
    }

    /// Marks what a link names as just used, and all before it as used later still: a text's end gives way first.
    fn touch(&mut self, mut link: Link) {
        while self.is_alive(link)
            && let Link::After { block, .. } = link
        {
            self.clock += 1;
            let block = &mut self.blocks[block as usize];
            block.used = self.clock;
            link = block.before;
        }
    }

    /// Takes a table's blocks back; what others can find of them stays findable.
    pub fn release(&mut self, table: &mut BlockTable) {
        for number in table.blocks.drain(..) {
            self.let_go(number);
        }
        (table.published, table.chain) = (0, Link::Start);
    }

    /// Takes a table's blocks back whose content cannot be trusted.
    pub fn discard(&mut self, table: &mut BlockTable) {
        for &number in &table.blocks {
            self.forget(number);
        }
        self.release(table);
    }
}

impl Block {
    fn is_kept(&self) -> bool {
        self.holders == 0 && self.len > 0
    }
}

#[cfg(test)]
mod tests;
