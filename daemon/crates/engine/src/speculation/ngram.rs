//! Where the newest tokens of a sequence stood before. Invariant: memory is fixed when the index is made, a token costs
//! the same however long the sequence is, and a match is compared token by token before it is believed.
//!
//! One table, mapped directly: the hash of two, three or four tokens leads to the position after their latest
//! occurrence. A collision overwrites, so an older occurrence can be forgotten, never mistaken.

/// The longest run of tokens that is looked up; longer matches are found through it.
const NGRAM_MAX: usize = 4;
/// The shortest one: a single token predicts too little.
const NGRAM_MIN: usize = 2;
/// Up to where the length of a match is counted.
pub(super) const MATCH_MAX: usize = 8;
/// Slots of the largest table: 128 KiB.
const SLOTS_MAX: usize = 1 << 15;

/// The index of one sequence.
#[derive(Debug)]
pub struct NgramIndex {
    /// Position after a run of tokens; 0, which is after nothing, marks an empty slot.
    slots: Vec<u32>,
    /// Runs that end at or before this position are in.
    known: usize,
}

/// An earlier occurrence of a sequence's newest tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Position of the token that followed.
    pub next: usize,
    /// How many tokens before it are the same as the newest ones; counted to 8.
    pub length: usize,
}

impl NgramIndex {
    /// For a sequence of at most `tokens_max` tokens. A longer one is taken too, and forgets more.
    pub fn new(tokens_max: usize) -> NgramIndex {
        NgramIndex {
            slots: vec![0; slots(tokens_max)],
            known: 0,
        }
    }

    /// Bytes of [`NgramIndex::new`].
    pub fn bytes(tokens_max: usize) -> usize {
        slots(tokens_max) * size_of::<u32>()
    }

    /// Takes in the tokens that came since the last call. `tokens` is the whole sequence, which only ever grows.
    pub fn extend(&mut self, tokens: &[u32]) {
        // The run at the very end has no successor yet, and must not be found as its own predecessor.
        for end in self.known + 1..tokens.len() {
            let Ok(position) = u32::try_from(end) else { return };
            let mut hash = 0;
            for (length, &token) in (1..=NGRAM_MAX).zip(tokens[..end].iter().rev()) {
                hash = mix(hash, token);
                if length >= NGRAM_MIN {
                    let slot = self.slot(hash);
                    self.slots[slot] = position;
                }
            }
            self.known = end;
        }
    }

    /// The latest earlier occurrence of the longest run at the end of `tokens`.
    pub fn find(&self, tokens: &[u32]) -> Option<Found> {
        let mut candidates = [0; NGRAM_MAX + 1];
        let mut hash = 0;
        for (length, &token) in (1..=NGRAM_MAX).zip(tokens.iter().rev()) {
            hash = mix(hash, token);
            candidates[length] = self.slots[self.slot(hash)] as usize;
        }
        (NGRAM_MIN..=NGRAM_MAX).rev().find_map(|wanted| {
            let next = candidates[wanted];
            let before = tokens.get(..next)?.iter().rev();
            let same = before.zip(tokens.iter().rev()).take(MATCH_MAX);
            let length = same.take_while(|(a, b)| a == b).count();
            (next < tokens.len() && length >= wanted).then_some(Found { next, length })
        })
    }

    fn slot(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.slots.len() - 1)
    }
}

/// A power of two.
fn slots(tokens_max: usize) -> usize {
    let runs = tokens_max.min(SLOTS_MAX) * (NGRAM_MAX - NGRAM_MIN + 1);
    runs.next_power_of_two().min(SLOTS_MAX)
}

fn mix(hash: u64, token: u32) -> u64 {
    let x = (hash ^ u64::from(token)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(tokens: &[u32]) -> Option<Found> {
        let mut index = NgramIndex::new(tokens.len());
        index.extend(tokens);
        index.find(tokens)
    }

    #[test]
    fn the_longest_match_wins_and_among_equals_the_latest() {
        let found = |next, length| Some(Found { next, length });
        assert_eq!(find(&[]), None);
        assert_eq!(find(&[1, 2, 3, 4, 5, 6]), None);
        assert_eq!(find(&[7, 8, 1, 7, 9, 7]), None, "one token is no match");
        assert_eq!(find(&[1, 2, 9, 1, 2]), found(2, 2));
        assert_eq!(find(&[1, 2, 8, 1, 2, 9, 1, 2]), found(5, 2));
        assert_eq!(find(&[5, 1, 2, 8, 6, 1, 2, 9, 5, 1, 2]), found(3, 3));
        assert_eq!(find(&[1, 2, 3, 4, 5, 9, 1, 2, 3, 4, 5]), found(5, 5));
        assert_eq!(find(&[4, 4, 4]), found(2, 2));
        assert_eq!(find(&[4; 40]), found(39, MATCH_MAX));
    }

    #[test]
    fn one_by_one_is_the_same_as_at_once() {
        let tokens: Vec<u32> = (0..500u32).map(|i| i * i % 7).collect();
        let mut index = NgramIndex::new(tokens.len());
        for end in 0..=tokens.len() {
            index.extend(&tokens[..end]);
            let mut at_once = NgramIndex::new(tokens.len());
            at_once.extend(&tokens[..end]);
            assert_eq!(index.find(&tokens[..end]), at_once.find(&tokens[..end]), "{end}");
        }
    }

    /// What it finds, it finds where a plain search would; a plain search finds it wherever nothing was overwritten.
    #[test]
    fn it_agrees_with_a_plain_search() {
        let mut state = 1u32;
        let tokens: Vec<u32> = (0..600)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 16) % 12
            })
            .collect();
        // Far more slots than runs, so that next to nothing collides.
        let mut index = NgramIndex::new(SLOTS_MAX);
        let mut missed = 0;
        for end in 1..tokens.len() {
            let seen = &tokens[..end];
            index.extend(seen);
            let plain = (NGRAM_MIN..=NGRAM_MAX.min(end)).rev().find_map(|length| {
                let newest = &seen[end - length..];
                (length..end)
                    .rev()
                    .find(|&next| &seen[next - length..next] == newest)
            });
            let found = index.find(seen);
            missed += usize::from(found.map(|f| f.next) != plain);
            if let Some(found) = found {
                let run = &seen[found.next - found.length..found.next];
                assert!(seen.ends_with(run) && found.length >= NGRAM_MIN);
            }
        }
        assert!(missed <= 6, "{missed} of 600 differ");
    }

    #[test]
    fn a_long_sequence_keeps_to_its_memory() {
        let tokens: Vec<u32> = (0..200_000).collect();
        let mut index = NgramIndex::new(usize::MAX);
        index.extend(&tokens);
        assert_eq!(index.slots.len() * 4, NgramIndex::bytes(usize::MAX));
        assert!(NgramIndex::bytes(usize::MAX) <= 128 << 10);
        assert!(NgramIndex::bytes(0) >= 4);
    }
}
