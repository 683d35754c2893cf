//! SentencePiece merging: neighbours join while the joined text is a token, best score first, leftmost on a tie.
//! Invariant: work is O(n log n) in the characters of the text; ids come only from the vocabulary.
//!
//! Own code, because a list of pair merges (as the `tokenizers` crate has) cannot say "leftmost among all pairs
//! that make the same token", which differs on repeated characters.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::path::{Path, PathBuf};

use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{Model, Token};

use super::TokenizerError;

/// The vocabulary of one SentencePiece model.
#[derive(Debug)]
pub(super) struct Spm {
    /// Tokens that text can become, with U+2581 for spaces; marks are not among them.
    ids: HashMap<Box<str>, u32>,
    /// By id.
    scores: Vec<f32>,
    /// Ids of the byte tokens.
    bytes: Box<[Option<u32>; 256]>,
    unk: Option<u32>,
    /// Every other token (marks, bytes), so that they can be found by their text.
    marks: HashMap<Box<str>, u32>,
    /// Longest token of `ids` in bytes; no join is longer.
    longest: usize,
    /// Whether text gets a space before it.
    space_first: bool,
}

/// A piece of the text between its neighbours.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    len: usize,
    before: usize,
    after: usize,
}

/// No neighbour.
const NONE: usize = usize::MAX;

/// Two neighbours whose joined text is a token.
struct Join {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Ord for Join {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score
            .total_cmp(&other.score)
            .then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Join {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Join {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Join {}

impl Spm {
    /// An empty vocabulary; `scores` are finite, one a token.
    pub(super) fn new(scores: Vec<f32>, unk: Option<u32>, space_first: bool) -> Spm {
        Spm {
            ids: HashMap::with_capacity(scores.len()),
            scores,
            bytes: Box::new([None; 256]),
            unk,
            marks: HashMap::new(),
            longest: 0,
            space_first,
        }
    }

    /// Adds a token that text can become. Returns the id that already has this text.
    pub(super) fn add_text(&mut self, text: &str, id: u32) -> Option<u32> {
        self.longest = self.longest.max(text.len());
        self.ids.insert(text.into(), id)
    }

    /// Adds a token that text never becomes by merging.
    pub(super) fn add_mark(&mut self, text: &str, id: u32) -> Option<u32> {
        self.marks.insert(text.into(), id)
    }

    /// Makes `id` the token of one byte.
    pub(super) fn add_byte(&mut self, byte: u8, id: u32) {
        if let Some(slot) = self.bytes.get_mut(byte as usize) {
            *slot = Some(id);
        }
    }

    /// The ids of `text`, which holds no marks.
    fn ids(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let text = escape(text, self.space_first);
        let mut symbols = symbols(&text);
        let mut joins = BinaryHeap::new();
        for right in 1..symbols.len() {
            self.offer(&text, &symbols, right - 1, right, &mut joins);
        }
        while let Some(join) = joins.pop() {
            let (left, right) = (symbols[join.left], symbols[join.right]);
            // One of the two has been joined elsewhere since.
            if left.len == 0 || right.len == 0 || left.len + right.len != join.len {
                continue;
            }
            symbols[join.left].len = join.len;
            symbols[join.left].after = right.after;
            symbols[join.right].len = 0;
            if let Some(after) = symbols.get_mut(right.after) {
                after.before = join.left;
            }
            if left.before != NONE {
                self.offer(&text, &symbols, left.before, join.left, &mut joins);
            }
            if right.after != NONE {
                self.offer(&text, &symbols, join.left, right.after, &mut joins);
            }
        }
        let mut ids = Vec::with_capacity(symbols.len() / 3);
        for symbol in symbols.iter().filter(|s| s.len > 0) {
            self.push(&text[symbol.start..symbol.start + symbol.len], &mut ids)?;
        }
        Ok(ids)
    }

    /// Remembers that two neighbours can be joined, if they can.
    fn offer(&self, text: &str, symbols: &[Symbol], left: usize, right: usize, joins: &mut BinaryHeap<Join>) {
        let (start, len) = (symbols[left].start, symbols[left].len + symbols[right].len);
        if len > self.longest {
            return;
        }
        let Some(id) = self.ids.get(&text[start..start + len]) else {
            return;
        };
        if let Some(score) = self.scores.get(*id as usize) {
            joins.push(Join {
                score: *score,
                left,
                right,
                len,
            });
        }
    }

    /// The id of one piece, or of its bytes.
    fn push(&self, piece: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if let Some(id) = self.ids.get(piece) {
            ids.push(*id);
            return Ok(());
        }
        let start = ids.len();
        for byte in piece.bytes() {
            match self.bytes.get(byte as usize).copied().flatten() {
                Some(id) => ids.push(id),
                None => {
                    ids.truncate(start);
                    ids.push(self.unk.ok_or(TokenizerError::NoToken)?);
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

/// Spaces as U+2581, with one more before the text when asked for.
fn escape(text: &str, space_first: bool) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 2 + 3);
    if space_first && !text.is_empty() {
        out.push('\u{2581}');
    }
    for c in text.chars() {
        out.push(if c == ' ' { '\u{2581}' } else { c });
    }
    out
}

/// One symbol a character.
fn symbols(text: &str) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    for (index, (start, c)) in text.char_indices().enumerate() {
        let before = index.checked_sub(1).unwrap_or(NONE);
        symbols.push(Symbol {
            start,
            len: c.len_utf8(),
            before,
            after: index + 1,
        });
    }
    if let Some(last) = symbols.last_mut() {
        last.after = NONE;
    }
    symbols
}

impl Model for Spm {
    type Trainer = BpeTrainer;

    fn tokenize(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        let ids = self.ids(text)?;
        Ok(ids
            .into_iter()
            .map(|id| Token {
                id,
                value: String::new(),
                offsets: (0, 0),
            })
            .collect())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).or_else(|| self.marks.get(token)).copied()
    }

    fn id_to_token(&self, _id: u32) -> Option<String> {
        None
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.ids
            .iter()
            .chain(&self.marks)
            .map(|(text, id)| (text.to_string(), *id))
            .collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.scores.len()
    }

    fn save(&self, _folder: &Path, _prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("this vocabulary is only read".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Spm {
        let texts = ["a", "aa", "▁", "b", "ab", "▁a"];
        let mut spm = Spm::new(vec![-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, 0.0], Some(6), true);
        for (id, text) in (0u32..).zip(texts) {
            assert_eq!(spm.add_text(text, id), None);
        }
        spm
    }

    #[test]
    fn the_leftmost_of_equal_scores_wins() {
        // "▁aaa": both pairs make "aa" with the same score; the left one joins, then nothing fits.
        assert_eq!(small().ids("aaa").unwrap(), [2, 1, 0]);
    }

    #[test]
    fn the_best_score_wins_over_the_leftmost() {
        // "▁aab": "aa" (-2) before "▁a" (-6) and "ab" (-5).
        assert_eq!(small().ids("aab").unwrap(), [2, 1, 3]);
    }

    #[test]
    fn unknown_characters_become_bytes_or_the_unknown_token() {
        let mut spm = small();
        assert_eq!(spm.ids("é").unwrap(), [2, 6]);
        spm.add_byte(0xC3, 4);
        assert_eq!(spm.ids("é").unwrap(), [2, 6], "half a character is not enough");
        spm.add_byte(0xA9, 5);
        assert_eq!(spm.ids("é").unwrap(), [2, 4, 5]);
        spm.unk = None;
        assert!(matches!(spm.ids("ü"), Err(TokenizerError::NoToken)));
    }

    #[test]
    fn a_megabyte_without_spaces_is_quick() {
        let start = std::time::Instant::now();
        assert_eq!(small().ids(&"a".repeat(1 << 20)).unwrap().len(), (1 << 19) + 1);
        assert!(start.elapsed().as_secs() < 20);
    }
}
