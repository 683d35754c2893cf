//! The bytes of every token, in one allocation, and what may be shown of them.
//! Invariant: `ends` is ascending and its last entry is the length of `bytes`.

use super::TokenizerError;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Text,
    /// Text that the file's author added; matched as a whole in every text.
    UserDefined,
    /// A mark for the model (begin, end, roles); matched only when asked for, never shown to users.
    Control,
    /// No token, a gap in the ids.
    Absent,
}

/// Bytes and kind of every token.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<Kind>,
}

impl Pieces {
    pub(super) fn with_capacity(tokens: usize) -> Self {
        Pieces {
            bytes: Vec::with_capacity(tokens.saturating_mul(8)),
            ends: Vec::with_capacity(tokens),
            kinds: Vec::with_capacity(tokens),
        }
    }

    /// Adds the next token; `write` appends its bytes.
    pub(super) fn push(
        &mut self,
        kind: Kind,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), TokenizerError> {
        write(&mut self.bytes);
        let end = u32::try_from(self.bytes.len()).map_err(|_| TokenizerError::TooMany {
            what: "bytes of token text",
            count: self.bytes.len(),
            max: u32::MAX as usize,
        })?;
        self.ends.push(end);
        self.kinds.push(kind);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    pub(super) fn kind(&self, token: u32) -> Option<Kind> {
        self.kinds.get(token as usize).copied()
    }

    pub(super) fn bytes(&self, token: u32) -> Option<&[u8]> {
        let index = token as usize;
        let end = *self.ends.get(index)? as usize;
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)? as usize,
            None => 0,
        };
        if self.kinds.get(index) == Some(&Kind::Absent) {
            None
        } else {
            self.bytes.get(start..end)
        }
    }
}

/// Appends the bytes that a token of a byte-level vocabulary stands for: one character per byte, in the alphabet
/// of GPT-2. A text with any other character stands for itself.
pub(super) fn push_byte_level(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(text.as_bytes());
                return;
            }
        }
    }
}

/// The byte that a character of GPT-2's alphabet stands for: printable Latin-1 stands for itself, the other 68
/// bytes follow from U+0100 in order.
fn byte_of(c: char) -> Option<u8> {
    let code = c as u32;
    match code {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7F).ok(),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// Appends the bytes of a SentencePiece token: U+2581 is a space.
pub(super) fn push_spm(text: &str, out: &mut Vec<u8>) {
    for (i, part) in text.split('\u{2581}').enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(part.as_bytes());
    }
}

/// The byte that a token like `<0x0A>` stands for.
pub(super) fn byte_token(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if hex.len() == 2 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        u8::from_str_radix(hex, 16).ok()
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen = [false; 256];
        for c in (0..=0x143).filter_map(char::from_u32) {
            if let Some(byte) = byte_of(c) {
                assert!(!seen[byte as usize], "{byte:#x} twice");
                seen[byte as usize] = true;
            }
        }
        assert!(seen.iter().all(|s| *s));
    }

    #[test]
    fn byte_tokens_are_exact() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        assert_eq!(byte_token("<0x+A>"), None);
        assert_eq!(byte_token("<0x0A"), None);
    }

    #[test]
    fn other_characters_stand_for_themselves() {
        let mut out = Vec::new();
        push_byte_level("<｜end｜>", &mut out);
        assert_eq!(out, "<｜end｜>".as_bytes());
        out.clear();
        push_byte_level("ĠaÄ", &mut out);
        assert_eq!(out, b" a\xc4");
    }
}
