//! The forward step of a decoder over a ragged batch: tokens of several sequences in, logits out. Invariant: after
//! [`Runner::new`] nothing is allocated.
//!
//! Shapes are `[tokens, width]`, row-major, float32; a batch's tokens are those of its slices, one slice after another.
//!
//! A batch goes through the model part by part: half a layer, or a tile of logits. Each lane holds one batch between two
//! of its parts, so that steps of another lane come in between; what they compute does not change by that.
mod batch;

use crate::options::{LOGIT_ROWS, SEQUENCES_MAX};
use crate::{KvCache, Model, Options};
use batch::Batch;
use hyprstream_kernels as kernels;
use hyprstream_kernels::{Forms, HeadNorms, Input, Pool, Product, Rows, Span};
use hyprstream_model::{Config, Layer, Matrix};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The next tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    /// Token ids, each below the vocabulary's length.
    pub tokens: &'a [u32],
    /// Position of the first of them.
    pub start: usize,
    /// Blocks of the KV cache with room for all positions up to the last.
    pub blocks: &'a [u32],
    /// The role of its tokens: given ones (prefill), or generated ones (decode). Kernels choose their arithmetic by it,
    /// so a token has the same role whenever it is computed, after an eviction too.
    pub prefill: bool,
    /// Which logits are wanted.
    pub logits: Logits,
}

/// Which tokens' logits a step computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None: more of the prompt follows.
    None,
    /// Those of the last token.
    Last,
    /// Those of every token.
    All,
}

/// Where a batch is kept while others are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    /// For batches that go through in one go.
    #[default]
    Step,
    /// For tokens of prompts.
    Long,
    /// For so few of them that they should not wait for those in the other one.
    Short,
}

impl Lane {
    /// Those that wait between two parts.
    pub const READING: [Lane; 2] = [Lane::Long, Lane::Short];

    /// Tokens of the largest batch, where a step has up to `step`.
    pub fn tokens_max(self, step: usize) -> usize {
        match self {
            Lane::Step | Lane::Long => step,
            Lane::Short => step.div_ceil(4),
        }
    }
}

/// What a batch goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first half of a layer.
    Attention(usize),
    /// The second half.
    FeedForward(usize),
    /// Logits of the wanted ones of its tokens, from this token on.
    Logits(usize),
}

/// A model with its KV cache and buffers.
pub struct Runner {
    model: Arc<Model>,
    pool: Arc<Pool>,
    cache: KvCache,
    inverse_frequencies: Vec<f32>,
    rope_scale: f32,
    /// By [`Lane`].
    lanes: [Batch; 3],
    buffers: Buffers,
    /// Counted up with every part, so that a long step is not taken for a stuck one.
    beats: Arc<AtomicU64>,
}

/// What one part needs while it is computed.
struct Buffers {
    tokens_max: usize,
    /// What a product reads, in the forms that its weights want.
    input: Input,
    /// Final states of the tokens whose logits are wanted.
    states: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attended: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    logits: Vec<f32>,
}

impl Buffers {
    fn new(config: &Config, tokens_max: usize) -> Option<Buffers> {
        let rows = |width: usize| zeroed(tokens_max.checked_mul(width)?);
        let heads = config.heads.checked_mul(config.head_dim)?;
        let kv_heads = config.kv_heads.checked_mul(config.head_dim)?;
        Some(Buffers {
            tokens_max,
            input: Input::new(tokens_max.max(LOGIT_ROWS), input_width(config)?)?,
            states: zeroed(config.hidden.checked_mul(LOGIT_ROWS)?)?,
            q: rows(heads)?,
            k: rows(kv_heads)?,
            v: rows(kv_heads)?,
            attended: rows(heads)?,
            gate: rows(config.ffn)?,
            up: rows(config.ffn)?,
            logits: zeroed(config.vocab.checked_mul(LOGIT_ROWS)?)?,
        })
    }
}

/// Floats that a lane keeps of a token.
pub(crate) fn batch_width(config: &Config) -> u64 {
    Batch::width(config)
}

/// Columns of the widest product.
pub(crate) fn input_width(config: &Config) -> Option<usize> {
    let heads = config.heads.checked_mul(config.head_dim)?;
    Some(config.hidden.max(config.ffn).max(heads))
}

fn zeroed(len: usize) -> Option<Vec<f32>> {
    let mut probe: Vec<f32> = Vec::new();
    probe.try_reserve_exact(len).ok()?;
    drop(probe);
    // `vec!` asks the allocator for zeroed pages, which stay untouched until a step needs them.
    Some(vec![0.0; len])
}

impl Runner {
    /// Buffers and cache for this model. `None` if there is no memory for them.
    pub fn new(model: Arc<Model>, pool: Arc<Pool>, options: &Options) -> Option<Runner> {
        let config = model.config();
        let factors = model.weights().rope_factors.as_deref();
        let cache = KvCache::new(config, options.kv_format, options.kv_blocks())?;
        let tokens_max = options.step_tokens_max();
        let buffers = Buffers::new(config, tokens_max)?;
        let batch = |lane: Lane| Batch::new(config, lane.tokens_max(tokens_max));
        let lanes = [batch(Lane::Step)?, batch(Lane::Long)?, batch(Lane::Short)?];
        let inverse_frequencies = config.rope.inverse_frequencies(factors);
        let rope_scale = config.rope.attention_factor();
        Some(Runner {
            model,
            pool,
            cache,
            inverse_frequencies,
            rope_scale,
            lanes,
            buffers,
            beats: Arc::default(),
        })
    }

    /// Counts parts here from now on.
    pub fn beat(&mut self, beats: Arc<AtomicU64>) {
        self.beats = beats;
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The KV cache, to make room in it.
    pub fn cache(&mut self) -> &mut KvCache {
        &mut self.cache
    }

    /// The KV cache, to look at.
    pub fn kv(&self) -> &KvCache {
        &self.cache
    }

    /// Tokens that one step takes at most.
    pub fn step_tokens_max(&self) -> usize {
        self.buffers.tokens_max
    }

    /// Tokens of the batch in this lane; 0 where there is none.
    pub fn tokens(&self, lane: Lane) -> usize {
        self.lanes[lane as usize].tokens()
    }

    /// What the batch in this lane goes through next.
    pub fn next_part(&self, lane: Lane) -> Part {
        self.lanes[lane as usize].next(self.model.config().layers)
    }

    /// Computes one step and hands every wanted row of logits to `on_logits(slice, token in slice, logits [vocab])`, in
    /// order. For what is asked of the slices see [`Runner::begin`].
    pub fn step(&mut self, slices: &[Slice<'_>], on_logits: &mut dyn FnMut(usize, usize, &mut [f32])) {
        self.begin(Lane::Step, slices);
        while !self.advance(Lane::Step, slices, on_logits) {}
    }

    /// Puts these tokens in a lane, in place of what was there. Decode slices come before prefill slices. Another order,
    /// slices beyond [`SEQUENCES_MAX`] and tokens beyond [`Lane::tokens_max`] are the caller's mistake.
    pub fn begin(&mut self, lane: Lane, slices: &[Slice<'_>]) {
        assert!(slices.len() <= SEQUENCES_MAX, "the batch is too large");
        assert!(slices.is_sorted_by_key(|s| s.prefill), "decode slices come first");
        let embed = self.model.weights().embed.as_ref();
        let batch = &mut self.lanes[lane as usize];
        batch.begin(slices, embed, &self.inverse_frequencies, self.rope_scale);
    }

    /// Computes the next part of the batch in this lane, and says whether that was the last one. `slices` are those that
    /// it began with, but for those that left. Logits go to `on_logits` as in [`Runner::step`].
    pub fn advance(
        &mut self,
        lane: Lane,
        slices: &[Slice<'_>],
        on_logits: &mut dyn FnMut(usize, usize, &mut [f32]),
    ) -> bool {
        let tokens: usize = slices.iter().map(|s| s.tokens.len()).sum();
        assert_eq!(tokens, self.tokens(lane), "the slices of the batch");
        let mut spans = [Span {
            first: 0,
            tokens: 0,
            start: 0,
            prefill: false,
            blocks: &[],
        }; SEQUENCES_MAX];
        let mut first = 0;
        for (span, slice) in spans.iter_mut().zip(slices) {
            *span = Span {
                first,
                tokens: slice.tokens.len(),
                start: slice.start,
                prefill: slice.prefill,
                blocks: slice.blocks,
            };
            first += slice.tokens.len();
        }
        let spans = &spans[..slices.len()];
        let decode = slices.iter().filter(|s| !s.prefill).map(|s| s.tokens.len()).sum();
        let rows = Rows {
            decode,
            prefill: tokens - decode,
        };
        let part = self.next_part(lane);
        let over = match part {
            _ if tokens == 0 => true,
            Part::Attention(layer) => {
                self.attention(layer, lane, rows, spans);
                false
            }
            Part::FeedForward(layer) => {
                self.feed_forward(layer, lane, rows);
                layer + 1 == self.model.config().layers && slices.iter().all(|s| s.logits == Logits::None)
            }
            Part::Logits(from) => self.head(lane, from, slices, on_logits),
        };
        self.beats.fetch_add(1, Ordering::Relaxed);
        let batch = &mut self.lanes[lane as usize];
        if over {
            batch.clear();
        } else if !matches!(part, Part::Logits(_)) {
            batch.pass();
        }
        over
    }

    /// Takes some tokens of the batch in this lane out: nobody wants them any more.
    pub fn leave(&mut self, lane: Lane, tokens: Range<usize>) {
        self.lanes[lane as usize].leave(tokens);
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        self.lanes.iter_mut().for_each(Batch::clear);
    }

    fn attention(&mut self, index: usize, lane: Lane, rows: Rows, spans: &[Span<'_>]) {
        let config = self.model.config();
        let layer = &self.model.weights().layers[index];
        let pool = &*self.pool;
        let tokens = rows.total();
        let (heads, kv_heads, dim) = (config.heads, config.kv_heads, config.head_dim);
        let b = &mut self.buffers;
        let (x, rotation) = self.lanes[lane as usize].parts();
        let q = &mut b.q[..tokens * heads * dim];
        let k = &mut b.k[..tokens * kv_heads * dim];
        let v = &mut b.v[..tokens * kv_heads * dim];

        let forms = forms(&[&layer.q, &layer.k, &layer.v]);
        let eps = config.norm_eps;
        b.input.set_norm(pool, x, &layer.attn_norm, eps, rows, forms);
        project(pool, layer, &b.input, q, k, v);
        let norms = layer.q_norm.as_ref().zip(layer.k_norm.as_ref());
        let norms = norms.map(|(q, k)| HeadNorms { q, k, eps });
        let cache = &mut self.cache.layers[index];
        kernels::place_heads(pool, cache, q, k, v, spans, norms, rotation);
        let attended = &mut b.attended[..tokens * heads * dim];
        let scale = 1.0 / (dim as f32).sqrt();
        let window = config.windows[index];
        kernels::attend(pool, cache, q, heads, spans, scale, window, attended);
        b.input
            .set(pool, attended, heads * dim, rows, self::forms(&[&layer.o]));
        kernels::multiply(pool, &b.input, &mut [residual(&layer.o, x)]);
    }

    fn feed_forward(&mut self, index: usize, lane: Lane, rows: Rows) {
        let config = self.model.config();
        let layer = &self.model.weights().layers[index];
        let pool = &*self.pool;
        let tokens = rows.total();
        let b = &mut self.buffers;
        let (x, _) = self.lanes[lane as usize].parts();
        let forms = self::forms(&[&layer.gate, &layer.up]);
        let eps = config.norm_eps;
        b.input.set_norm(pool, x, &layer.ffn_norm, eps, rows, forms);
        let gate = &mut b.gate[..tokens * config.ffn];
        let up = &mut b.up[..tokens * config.ffn];
        let products = &mut [product(&layer.gate, None, gate), product(&layer.up, None, up)];
        kernels::multiply(pool, &b.input, products);
        let forms = self::forms(&[&layer.down]);
        b.input.set_silu_mul(pool, gate, up, config.ffn, rows, forms);
        kernels::multiply(pool, &b.input, &mut [residual(&layer.down, x)]);
    }

    /// Logits of a tile of the wanted tokens, of which none is among the first `from` any more. True if these were the last.
    fn head(
        &mut self,
        lane: Lane,
        from: usize,
        slices: &[Slice<'_>],
        on_logits: &mut dyn FnMut(usize, usize, &mut [f32]),
    ) -> bool {
        let hidden = self.model.config().hidden;
        let (x, _) = self.lanes[lane as usize].parts();
        let mut rows = [(0usize, 0usize); LOGIT_ROWS];
        let (mut count, mut first, mut said, mut more) = (0, 0, from, false);
        for (index, slice) in slices.iter().enumerate() {
            let tokens = slice.tokens.len();
            let own = match slice.logits {
                Logits::None => tokens..tokens,
                Logits::Last => tokens.saturating_sub(1)..tokens,
                Logits::All => 0..tokens,
            };
            for at in own {
                let token = first + at;
                if token < from {
                    continue;
                }
                if count == LOGIT_ROWS {
                    more = true;
                    break;
                }
                let state = &x[token * hidden..(token + 1) * hidden];
                self.buffers.states[count * hidden..(count + 1) * hidden].copy_from_slice(state);
                rows[count] = (index, at);
                (count, said) = (count + 1, token + 1);
            }
            first += tokens;
        }
        self.lanes[lane as usize].say(said);
        self.logits(&rows[..count], on_logits);
        !more
    }

    /// Logits of the gathered states. All have the arithmetic of generated tokens here, whatever their role: they are
    /// few, for which it is the faster one.
    fn logits(&mut self, rows: &[(usize, usize)], on_logits: &mut dyn FnMut(usize, usize, &mut [f32])) {
        if rows.is_empty() {
            return;
        }
        let (config, weights) = (self.model.config(), self.model.weights());
        let (b, pool) = (&mut self.buffers, &*self.pool);
        let states = &b.states[..rows.len() * config.hidden];
        let roles = Rows {
            decode: rows.len(),
            prefill: 0,
        };
        let forms = forms(&[&weights.output]);
        b.input
            .set_norm(pool, states, &weights.output_norm, config.norm_eps, roles, forms);
        let logits = &mut b.logits[..rows.len() * config.vocab];
        kernels::multiply(pool, &b.input, &mut [product(&weights.output, None, logits)]);
        for (&(slice, at), logits) in rows.iter().zip(logits.chunks_exact_mut(config.vocab)) {
            on_logits(slice, at, logits);
        }
    }
}

/// The forms of an input that all these read.
fn forms(matrices: &[&Matrix]) -> Forms {
    let forms = matrices.iter().map(|m| m.weight().forms());
    forms.fold(Forms::default(), Forms::and)
}

fn product<'a>(w: &'a Matrix, bias: Option<&'a [f32]>, y: &'a mut [f32]) -> Product<'a> {
    Product {
        w: w.weight(),
        bias,
        y,
        add: false,
    }
}

/// The product that goes on top of the residual stream `x`.
fn residual<'a>(w: &'a Matrix, x: &'a mut [f32]) -> Product<'a> {
    Product {
        add: true,
        ..product(w, None, x)
    }
}

fn project(pool: &Pool, layer: &Layer, input: &Input, q: &mut [f32], k: &mut [f32], v: &mut [f32]) {
    let products = &mut [
        product(&layer.q, layer.q_bias.as_deref(), q),
        product(&layer.k, layer.k_bias.as_deref(), k),
        product(&layer.v, layer.v_bias.as_deref(), v),
    ];
    kernels::multiply(pool, input, products);
}
