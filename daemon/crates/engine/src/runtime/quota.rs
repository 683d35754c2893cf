//! How much of the cache one user may have. Invariant: the blocks that a user's sequences hold and those kept of earlier
//! ones are together no more than the user's limit, but for one of drafts a sequence.
use super::Runtime;
use crate::sequence::Sequence;
use crate::{BlockTable, EngineError};
use hyprstream_kernels::KV_BLOCK;
use std::time::Instant;

/// The blocks of a limit in tokens.
pub fn quota_blocks(tokens_max: Option<usize>) -> usize {
    tokens_max.map_or(usize::MAX, |tokens| (tokens / KV_BLOCK).max(1))
}

/// Blocks that a sequence needs until its next token is out.
fn needs(sequence: &Sequence) -> usize {
    let tokens = sequence.tokens.len() + 1;
    tokens.div_ceil(KV_BLOCK).min(sequence.kv_blocks_max)
}

impl Runtime {
    /// Why a sequence that just came cannot stay: what its user has at work leaves too little for it. One alone always may.
    pub(super) fn over_quota(&self, new: &Sequence) -> Option<EngineError> {
        if new.kv_blocks_max == usize::MAX {
            return None;
        }
        let waiting = self.waiting.iter().filter(|s| s.uid == new.uid);
        let waiting: usize = waiting.map(needs).sum();
        let held = self.held_blocks(new, None).saturating_add(waiting);
        let wanted = needs(new);
        (held > 0 && held + wanted > new.kv_blocks_max).then_some(EngineError::UserKv {
            held: held * KV_BLOCK,
            wanted: wanted * KV_BLOCK,
            max: new.kv_blocks_max.saturating_mul(KV_BLOCK),
        })
    }

    /// Whether its user's running sequences leave room for a waiting one.
    pub(super) fn may_run(&self, sequence: &Sequence) -> bool {
        if sequence.kv_blocks_max == usize::MAX {
            return true;
        }
        let held = self.held_blocks(sequence, None);
        held == 0 || held + needs(sequence) <= sequence.kv_blocks_max
    }

    /// Blocks that the running sequences of this one's user hold, and one that is about to run.
    fn held_blocks(&self, of: &Sequence, starting: Option<&BlockTable>) -> usize {
        let theirs = self.running.iter().filter(|s| s.uid == of.uid && !s.parked);
        let tables = theirs.map(|s| &s.table).chain(starting);
        let share = |table| self.runner.kv().share(table);
        tables.map(share).sum::<f64>().round() as usize
    }

    /// Lets what was kept for a waiting sequence's user give way to the blocks that it needs beyond those it adopted.
    pub(super) fn make_own_room(&mut self, at: usize, table: &BlockTable, more: usize) {
        let sequence = &self.waiting[at];
        let (uid, max) = (sequence.uid, sequence.kv_blocks_max);
        if max < usize::MAX {
            let held = self.held_blocks(sequence, Some(table));
            self.runner.cache().trim(uid, max.saturating_sub(held + more));
        }
    }

    /// Whether the running sequence at `at` may grow to `end` positions; what was kept for its user gives way.
    pub(super) fn within_quota(&mut self, at: usize, end: usize) -> bool {
        let sequence = &self.running[at];
        let more = end
            .div_ceil(KV_BLOCK)
            .saturating_sub(sequence.table.blocks().len());
        if more == 0 || sequence.kv_blocks_max == usize::MAX {
            return true;
        }
        let (uid, max) = (sequence.uid, sequence.kv_blocks_max);
        let held = self.held_blocks(sequence, None);
        let alone = self.running.iter().filter(|s| s.uid == uid && !s.parked).count() == 1;
        let left = max.checked_sub(held + more);
        self.runner.cache().trim(uid, left.unwrap_or(0));
        // One alone never gets beyond the limit, which ends its answer like the end of the context.
        alone || left.is_some()
    }

    /// Sends the newest of a user's running sequences back to wait.
    pub(super) fn park_own(&mut self, at: usize, now: Instant) {
        let uid = self.running[at].uid;
        let theirs = self.running.iter().enumerate();
        let theirs = theirs.filter(|(_, s)| s.uid == uid && !s.parked);
        let newest = theirs.max_by_key(|(_, s)| (s.rank, s.serial));
        self.park(newest.map_or(at, |(newest, _)| newest), now);
    }
}
