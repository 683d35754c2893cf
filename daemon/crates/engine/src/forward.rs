//! The forward step of a decoder over a ragged batch: tokens of several sequences in, logits out. Invariant: after
//! [`Runner::new`] nothing is allocated.
//!
//! Shapes are `[tokens, width]`, row-major, float32; a step's tokens are those of its slices, one slice after another.
use crate::options::{LOGIT_ROWS, SEQUENCES_MAX};
use crate::{KvCache, Model, Options};
use hyprstream_kernels as kernels;
use hyprstream_kernels::{Forms, HeadNorms, Input, Pool, Product, Rotation, Rows, Span, Weight};
use hyprstream_model::{Config, Layer, Matrix};
use std::sync::Arc;

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

/// A model with its KV cache and buffers.
pub struct Runner {
    model: Arc<Model>,
    pool: Arc<Pool>,
    cache: KvCache,
    inverse_frequencies: Vec<f32>,
    rope_scale: f32,
    buffers: Buffers,
}

struct Buffers {
    tokens_max: usize,
    /// The residual stream.
    x: Vec<f32>,
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
    cos: Vec<f32>,
    sin: Vec<f32>,
    logits: Vec<f32>,
}

impl Buffers {
    fn new(config: &Config, tokens_max: usize) -> Option<Buffers> {
        let rows = |width: usize| zeroed(tokens_max.checked_mul(width)?);
        let heads = config.heads.checked_mul(config.head_dim)?;
        let kv_heads = config.kv_heads.checked_mul(config.head_dim)?;
        Some(Buffers {
            tokens_max,
            x: rows(config.hidden)?,
            input: Input::new(tokens_max.max(LOGIT_ROWS), input_width(config)?)?,
            states: zeroed(config.hidden.checked_mul(LOGIT_ROWS)?)?,
            q: rows(heads)?,
            k: rows(kv_heads)?,
            v: rows(kv_heads)?,
            attended: rows(heads)?,
            gate: rows(config.ffn)?,
            up: rows(config.ffn)?,
            cos: rows(config.rope.dims / 2)?,
            sin: rows(config.rope.dims / 2)?,
            logits: zeroed(config.vocab.checked_mul(LOGIT_ROWS)?)?,
        })
    }
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
        let buffers = Buffers::new(config, options.step_tokens_max())?;
        let inverse_frequencies = config.rope.inverse_frequencies(factors);
        let rope_scale = config.rope.attention_factor();
        Some(Runner {
            model,
            pool,
            cache,
            inverse_frequencies,
            rope_scale,
            buffers,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The KV cache, to make room in it.
    pub fn cache(&mut self) -> &mut KvCache {
        &mut self.cache
    }

    /// Tokens that one step takes at most.
    pub fn step_tokens_max(&self) -> usize {
        self.buffers.tokens_max
    }

    /// Computes one step and hands every wanted row of logits to `on_logits(slice, token in slice, logits [vocab])`, in
    /// order. Decode slices come before prefill slices. Another order, slices beyond [`SEQUENCES_MAX`] and tokens beyond
    /// [`Runner::step_tokens_max`] are the caller's mistake.
    pub fn step(&mut self, slices: &[Slice<'_>], on_logits: &mut dyn FnMut(usize, usize, &mut [f32])) {
        let tokens: usize = slices.iter().map(|s| s.tokens.len()).sum();
        assert!(
            tokens <= self.buffers.tokens_max && slices.len() <= SEQUENCES_MAX,
            "the step is too large"
        );
        assert!(slices.is_sorted_by_key(|s| s.prefill), "decode slices come first");
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
        self.embed(slices);
        self.turn(spans);
        for index in 0..self.model.config().layers {
            self.layer(index, rows, spans);
        }
        self.head(slices, spans, on_logits);
    }

    fn embed(&mut self, slices: &[Slice<'_>]) {
        let hidden = self.model.config().hidden;
        let embed = self.model.weights().embed.as_ref();
        let tokens = slices.iter().flat_map(|s| s.tokens);
        for (row, &token) in self.buffers.x.chunks_exact_mut(hidden).zip(tokens) {
            kernels::decode_row(embed.format, embed.row(token as usize), row);
        }
    }

    /// Cosines and sines of the positions in this step. Angles are float32 products, as in transformers.
    fn turn(&mut self, spans: &[Span<'_>]) {
        let half = self.inverse_frequencies.len();
        if half == 0 {
            return;
        }
        let b = &mut self.buffers;
        let rows = b.cos.chunks_exact_mut(half).zip(b.sin.chunks_exact_mut(half));
        let positions = spans.iter().flat_map(|s| s.start..s.start + s.tokens);
        for ((cos, sin), position) in rows.zip(positions) {
            for ((c, s), frequency) in cos.iter_mut().zip(sin).zip(&self.inverse_frequencies) {
                let (sine, cosine) = (position as f32 * frequency).sin_cos();
                (*c, *s) = (cosine * self.rope_scale, sine * self.rope_scale);
            }
        }
    }

    fn layer(&mut self, index: usize, rows: Rows, spans: &[Span<'_>]) {
        let config = self.model.config();
        let layer = &self.model.weights().layers[index];
        let pool = &*self.pool;
        let tokens = rows.total();
        let (heads, kv_heads, dim) = (config.heads, config.kv_heads, config.head_dim);
        let b = &mut self.buffers;
        let x = &mut b.x[..tokens * config.hidden];
        let q = &mut b.q[..tokens * heads * dim];
        let k = &mut b.k[..tokens * kv_heads * dim];
        let v = &mut b.v[..tokens * kv_heads * dim];

        let forms = forms(&[&layer.q, &layer.k, &layer.v]);
        let eps = config.norm_eps;
        b.input.set_norm(pool, x, &layer.attn_norm, eps, rows, forms);
        project(pool, layer, &b.input, q, k, v);
        let norms = layer.q_norm.as_ref().zip(layer.k_norm.as_ref());
        let norms = norms.map(|(q, k)| HeadNorms { q, k, eps });
        let pairs = config.rope.dims / 2;
        let rotation = Rotation {
            cos: &b.cos[..tokens * pairs],
            sin: &b.sin[..tokens * pairs],
            pairs,
            layout: config.rope.layout,
        };
        let cache = &mut self.cache.layers[index];
        kernels::place_heads(pool, cache, q, k, v, spans, norms, rotation);
        let attended = &mut b.attended[..tokens * heads * dim];
        let scale = 1.0 / (dim as f32).sqrt();
        let window = config.windows[index];
        kernels::attend(pool, cache, q, heads, spans, scale, window, attended);
        b.input
            .set(pool, attended, heads * dim, rows, self::forms(&[&layer.o]));
        kernels::multiply(pool, &b.input, &mut [residual(&layer.o, x)]);

        let forms = self::forms(&[&layer.gate, &layer.up]);
        b.input.set_norm(pool, x, &layer.ffn_norm, eps, rows, forms);
        let gate = &mut b.gate[..tokens * config.ffn];
        let up = &mut b.up[..tokens * config.ffn];
        let products = &mut [product(&layer.gate, None, gate), product(&layer.up, None, up)];
        kernels::multiply(pool, &b.input, products);
        let forms = self::forms(&[&layer.down]);
        b.input.set_silu_mul(pool, gate, up, config.ffn, rows, forms);
        kernels::multiply(pool, &b.input, &mut [residual(&layer.down, x)]);
    }

    fn head(
        &mut self,
        slices: &[Slice<'_>],
        spans: &[Span<'_>],
        on_logits: &mut dyn FnMut(usize, usize, &mut [f32]),
    ) {
        let mut rows = [(0usize, 0usize); LOGIT_ROWS];
        let mut count = 0;
        for (index, (slice, span)) in slices.iter().zip(spans).enumerate() {
            let wanted = match slice.logits {
                Logits::None => continue,
                Logits::Last => slice.tokens.len().saturating_sub(1)..slice.tokens.len(),
                Logits::All => 0..slice.tokens.len(),
            };
            for at in wanted {
                self.gather(span.first + at, count);
                rows[count] = (index, at);
                count += 1;
                if count == LOGIT_ROWS {
                    self.logits(&rows[..count], on_logits);
                    count = 0;
                }
            }
        }
        self.logits(&rows[..count], on_logits);
    }

    /// Copies the final state of a token to where the head reads it.
    fn gather(&mut self, token: usize, slot: usize) {
        let hidden = self.model.config().hidden;
        let state = &self.buffers.x[token * hidden..(token + 1) * hidden];
        self.buffers.states[slot * hidden..(slot + 1) * hidden].copy_from_slice(state);
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
    let packed = |m: &&Matrix| matches!(m.weight(), Weight::Packed(_));
    Forms {
        plain: !matrices.iter().all(packed),
        packed: matrices.iter().any(packed),
    }
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
