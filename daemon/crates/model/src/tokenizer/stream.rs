//! Text from tokens, as they come.
//! Invariant: what was handed out is the text of all tokens so far, less an unfinished character at its end.

use std::sync::Arc;

use super::Tokenizer;

/// Joins bytes to whole characters. Bytes that can no longer become a character turn into U+FFFD, one for each
/// maximal part of a character, as `String::from_utf8_lossy` has it.
#[derive(Debug, Default)]
pub(super) struct Characters {
    /// The start of a character that is not whole yet; at most three bytes.
    pending: Vec<u8>,
}

impl Characters {
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    out.push_str(text);
                    rest = &[];
                }
                Err(e) => {
                    let (good, bad) = rest.split_at_checked(e.valid_up_to()).unwrap_or((rest, &[]));
                    out.push_str(std::str::from_utf8(good).unwrap_or_default());
                    rest = bad;
                    if let Some(len) = e.error_len() {
                        out.push(char::REPLACEMENT_CHARACTER);
                        rest = rest.get(len..).unwrap_or_default();
                        continue;
                    }
                }
            }
            break;
        }
        self.pending = rest.to_vec();
    }

    pub(super) fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Turns the tokens of one generation into text. Made by [`Tokenizer::stream`].
#[derive(Debug)]
pub struct DecodeStream {
    tokenizer: Arc<Tokenizer>,
    text: TextState,
}

/// Where in a text decoding stands.
#[derive(Debug)]
pub(super) struct TextState {
    characters: Characters,
    /// The next piece begins the text, so the space that the vocabulary puts there goes.
    at_start: bool,
}

impl TextState {
    pub(super) fn new(at_start: bool) -> TextState {
        TextState {
            characters: Characters::default(),
            at_start,
        }
    }

    /// Appends what `token` adds to the text.
    pub(super) fn push(&mut self, tokenizer: &Tokenizer, token: u32, skip_special: bool, out: &mut String) {
        if skip_special && tokenizer.is_special(token) {
            return;
        }
        let Some(mut bytes) = tokenizer.pieces.bytes(token) else {
            return;
        };
        if bytes.is_empty() {
            return;
        }
        if self.at_start {
            self.at_start = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.characters.push(bytes, out);
    }

    pub(super) fn finish(&mut self, out: &mut String) {
        self.characters.finish(out);
    }
}

impl DecodeStream {
    pub(super) fn new(tokenizer: Arc<Tokenizer>, prompt: &[u32]) -> DecodeStream {
        // A text begins after nothing and after a mark; after text it goes on, and its space counts.
        let at_start = tokenizer.strips_space && prompt.last().is_none_or(|last| tokenizer.is_special(*last));
        DecodeStream {
            tokenizer,
            text: TextState::new(at_start),
        }
    }

    /// The whole characters that `token` completes. Marks for the model (begin, end, roles) show nothing.
    pub fn push(&mut self, token: u32) -> String {
        let mut out = String::new();
        self.text.push(&self.tokenizer, token, true, &mut out);
        out
    }

    /// What is left at the end: U+FFFD for an unfinished character, else nothing.
    pub fn finish(&mut self) -> String {
        let mut out = String::new();
        self.text.finish(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_read_as_lossy(
            bytes in proptest::collection::vec(prop_oneof![any::<u8>(), 0xC0u8..=0xF8, 0x80u8..=0xBF], 0..40),
            cut in 1usize..5,
        ) {
            let mut characters = Characters::default();
            let mut out = String::new();
            for piece in bytes.chunks(cut) {
                characters.push(piece, &mut out);
                prop_assert!(characters.pending.len() <= 3);
            }
            characters.finish(&mut out);
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }
    }
}
