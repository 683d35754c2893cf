//! Tokens on their way through the layers of a model. Invariant: what is kept of a token between two parts depends on that
//! token alone, so others may leave the batch meanwhile.
use super::{Part, Slice, zeroed};
use hyprstream_kernels::{MatrixRef, RopeLayout, Rotation, decode_row};
use hyprstream_model::Config;
use std::ops::Range;

pub struct Batch {
    tokens_max: usize,
    tokens: usize,
    /// Parts that are computed, up to the last layer.
    passed: usize,
    /// Tokens whose logits are through or not wanted: the first ones.
    said: usize,
    hidden: usize,
    /// Pairs of values that a position turns.
    pairs: usize,
    layout: RopeLayout,
    /// The residual stream.
    x: Vec<f32>,
    /// Of the tokens' positions.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Batch {
    pub fn new(config: &Config, tokens_max: usize) -> Option<Batch> {
        let (hidden, pairs) = (config.hidden, config.rope.dims / 2);
        Some(Batch {
            tokens_max,
            tokens: 0,
            passed: 0,
            said: 0,
            hidden,
            pairs,
            layout: config.rope.layout,
            x: zeroed(tokens_max.checked_mul(hidden)?)?,
            cos: zeroed(tokens_max.checked_mul(pairs)?)?,
            sin: zeroed(tokens_max.checked_mul(pairs)?)?,
        })
    }

    /// Floats that [`Batch::new`] allocates for a token.
    pub fn width(config: &Config) -> u64 {
        (config.hidden as u64).saturating_add(config.rope.dims as u64)
    }

    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The part that comes next in a model of so many layers.
    pub fn next(&self, layers: usize) -> Part {
        let (layer, half) = (self.passed / 2, self.passed % 2);
        match (layer.checked_sub(layers), half) {
            (None, 0) => Part::Attention(layer),
            (None, _) => Part::FeedForward(layer),
            (Some(_), _) => Part::Logits(self.said),
        }
    }

    /// Counts half a layer as computed.
    pub fn pass(&mut self) {
        self.passed += 1;
    }

    /// Counts the logits of the first `tokens` tokens as through.
    pub fn say(&mut self, tokens: usize) {
        self.said = tokens;
    }

    /// Puts the tokens of these slices in place of what was there.
    pub fn begin(&mut self, slices: &[Slice<'_>], embed: MatrixRef<'_>, frequencies: &[f32], scale: f32) {
        let tokens: usize = slices.iter().map(|s| s.tokens.len()).sum();
        assert!(tokens <= self.tokens_max, "the batch is too large");
        (self.tokens, self.passed, self.said) = (tokens, 0, 0);
        let ids = slices.iter().flat_map(|s| s.tokens);
        for (row, &token) in self.x.chunks_exact_mut(self.hidden).zip(ids) {
            decode_row(embed.format, embed.row(token as usize), row);
        }
        if self.pairs > 0 {
            self.turn(slices, frequencies, scale);
        }
    }

    /// Cosines and sines of the positions. Angles are float32 products, as in transformers.
    fn turn(&mut self, slices: &[Slice<'_>], frequencies: &[f32], scale: f32) {
        let (cos, sin) = (&mut self.cos, &mut self.sin);
        let rows = cos
            .chunks_exact_mut(self.pairs)
            .zip(sin.chunks_exact_mut(self.pairs));
        let positions = slices.iter().flat_map(|s| s.start..s.start + s.tokens.len());
        for ((cos, sin), position) in rows.zip(positions) {
            for ((c, s), frequency) in cos.iter_mut().zip(sin).zip(frequencies) {
                let (sine, cosine) = (position as f32 * frequency).sin_cos();
                (*c, *s) = (cosine * scale, sine * scale);
            }
        }
    }

    /// The residual stream, and how the tokens' heads are turned.
    pub fn parts(&mut self) -> (&mut [f32], Rotation<'_>) {
        let pairs = self.pairs;
        let rotation = Rotation {
            cos: &self.cos[..self.tokens * pairs],
            sin: &self.sin[..self.tokens * pairs],
            pairs,
            layout: self.layout,
        };
        (&mut self.x[..self.tokens * self.hidden], rotation)
    }

    /// Takes these tokens out; those after them move up.
    pub fn leave(&mut self, tokens: Range<usize>) {
        let end = tokens.end.min(self.tokens);
        let start = tokens.start.min(end);
        let kept = end..self.tokens;
        let close = |rows: &mut [f32], width: usize| {
            rows.copy_within(kept.start * width..kept.end * width, start * width);
        };
        close(&mut self.x, self.hidden);
        close(&mut self.cos, self.pairs);
        close(&mut self.sin, self.pairs);
        self.tokens -= end - start;
        self.said -= self.said.min(end).saturating_sub(start);
    }

    pub fn clear(&mut self) {
        self.tokens = 0;
    }
}
