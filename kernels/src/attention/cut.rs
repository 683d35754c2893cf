//! How spans of prompts are cut into pieces: some tokens, of all heads that share a key head.
//!
//! Invariant: every token of a span meets every key head in one piece.

use super::Span;
use super::attend::Call;

/// Pieces for every thread at least, where they have more rows than they need to.
const PIECES: usize = 4;

/// A cut of the prompts of one call.
#[derive(Clone, Copy)]
pub(super) struct Cut {
    /// Tokens of a piece.
    tokens: usize,
}

/// A piece.
pub(super) struct Place {
    pub kv_head: usize,
    /// The first token of the span, and how many.
    pub token: usize,
    pub tokens: usize,
}

impl Cut {
    /// For prompts of so many tokens together. Large pieces share more: they have `most` rows of queries, but fewer, down
    /// to `least`, where there would not be some for every thread.
    pub(super) fn new(call: &Call<'_>, tokens: usize, threads: usize, least: usize, most: usize) -> Cut {
        let mut rows = most;
        while rows > least && tokens * call.heads < PIECES * threads * rows {
            rows /= 2;
        }
        Cut {
            tokens: (rows / call.group().max(1)).max(1),
        }
    }

    pub(super) fn pieces(&self, call: &Call<'_>, span: &Span<'_>) -> usize {
        span.tokens.div_ceil(self.tokens) * call.shape.kv_heads
    }

    /// Where a piece is. The last tokens see most, so that they go first and the end of a run is short.
    pub(super) fn place(&self, call: &Call<'_>, span: &Span<'_>, piece: usize) -> Place {
        let piece = self.pieces(call, span) - 1 - piece;
        let token = piece / call.shape.kv_heads * self.tokens;
        Place {
            kv_head: piece % call.shape.kv_heads,
            token,
            tokens: self.tokens.min(span.tokens - token),
        }
    }
}
