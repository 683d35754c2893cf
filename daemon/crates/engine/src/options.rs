//! How large the engine may get. Invariant: a plan counts every buffer that a loaded model ever owns; nothing grows later.
use crate::KvCache;
use crate::forward::{Lane, batch_width, input_width};
use crate::speculation::NgramIndex;
use hyprstream_kernels::{Input, KV_BLOCK, KvFormat};
use hyprstream_model::{Config, Summary};
use std::time::Duration;

/// The most sequences that one step may carry; [`Options::sequences_max`] is cut to it.
pub const SEQUENCES_MAX: usize = 128;

/// Rows of logits that are computed in one go. Scoring a long prompt walks over it in such tiles, since a whole prompt
/// of logits can be larger than the model.
pub const LOGIT_ROWS: usize = 16;

/// What the engine is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Compute threads, 0 for one a core.
    pub threads: usize,
    /// Requests that may wait.
    pub queue_max: usize,
    /// Sequences of one model that run together.
    pub sequences_max: usize,
    /// Tokens of prompts that are computed together at most.
    pub prefill_tokens_max: usize,
    /// How keys and values are stored.
    pub kv_format: KvFormat,
    /// Tokens that a model's KV cache holds, all its sequences together.
    pub kv_tokens: usize,
    /// How long a client may leave its answer unread before its request ends.
    pub stall: Duration,
    /// What a row of a step is taken to cost, as a share of a token without drafts; measured where this is `None`. For
    /// tests: with 0 every guess seems to pay.
    pub draft_cost: Option<f32>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            threads: 0,
            queue_max: 64,
            sequences_max: 16,
            prefill_tokens_max: 512,
            kv_format: KvFormat::F16,
            kv_tokens: 16384,
            stall: Duration::from_secs(30),
            draft_cost: None,
        }
    }
}

impl Options {
    /// Blocks in a model's KV cache.
    pub fn kv_blocks(&self) -> usize {
        self.kv_tokens.div_ceil(KV_BLOCK).max(1)
    }

    /// Tokens of this model whose keys and values take so many bytes.
    pub fn kv_tokens_in(&self, config: &Config, bytes: u64) -> usize {
        let all = KvCache::bytes(config, self.kv_format, self.kv_blocks());
        let block = all / self.kv_blocks() as u64;
        let blocks = bytes / block.max(1);
        usize::try_from(blocks)
            .unwrap_or(usize::MAX)
            .saturating_mul(KV_BLOCK)
    }

    /// Tokens that one sequence of this model can reach: the trained context or the cache, whichever is smaller.
    pub fn context_of(&self, config: &Config) -> usize {
        config.context.min(self.kv_blocks().saturating_mul(KV_BLOCK))
    }

    /// Tokens in the largest step.
    pub fn step_tokens_max(&self) -> usize {
        self.prefill_tokens_max.max(self.sequences_max).max(1)
    }

    /// The same with every number in its allowed range.
    pub(crate) fn clamped(mut self) -> Self {
        self.queue_max = self.queue_max.max(1);
        self.sequences_max = self.sequences_max.clamp(1, SEQUENCES_MAX);
        self.prefill_tokens_max = self.prefill_tokens_max.clamp(1, 8192);
        self
    }
}

/// Bytes that a loaded model claims. What the compute threads keep for all of them is in [`Engine::thread_bytes`].
///
/// [`Engine::thread_bytes`]: crate::Engine::thread_bytes
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights: packed, or as they lie in the mapped file.
    pub weights: u64,
    /// Keys and values, and the books about their blocks.
    pub kv: u64,
    /// Buffers of the forward step, logits among them.
    pub scratch: u64,
}

impl MemoryPlan {
    /// The plan for a model that is not loaded yet. Saturates instead of overflowing: a hostile header asks for more
    /// than any budget.
    pub fn for_model(summary: &Summary, options: &Options) -> MemoryPlan {
        let config = &summary.config;
        MemoryPlan {
            weights: summary.resident_bytes,
            kv: KvCache::bytes(config, options.kv_format, options.kv_blocks()),
            scratch: scratch_bytes(config, options).saturating_add(drafts_bytes(config, options)),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.scratch)
    }
}

/// What the sequences that run look drafts up in.
fn drafts_bytes(config: &Config, options: &Options) -> u64 {
    let index = NgramIndex::bytes(options.context_of(config)) as u64;
    index.saturating_mul(options.sequences_max as u64)
}

fn scratch_bytes(config: &Config, options: &Options) -> u64 {
    let tokens = options.step_tokens_max() as u64;
    let widths = [config.ffn, config.ffn];
    let heads = [config.heads, config.heads, config.kv_heads, config.kv_heads];
    let per_token = widths.iter().fold(0u64, |sum, &w| sum.saturating_add(w as u64));
    let per_token = heads.iter().fold(per_token, |sum, &h| {
        sum.saturating_add((h as u64).saturating_mul(config.head_dim as u64))
    });
    let logits = (config.vocab as u64).saturating_mul(LOGIT_ROWS as u64 + 3);
    let states = (config.hidden as u64).saturating_mul(LOGIT_ROWS as u64);
    let lanes = [Lane::Step, Lane::Long, Lane::Short];
    let lanes = lanes.map(|lane| lane.tokens_max(options.step_tokens_max()) as u64);
    let batches = batch_width(config).saturating_mul(lanes.iter().sum());
    let floats = tokens
        .saturating_mul(per_token)
        .saturating_add(batches)
        .saturating_add(logits)
        .saturating_add(states);
    let rows = options.step_tokens_max().max(LOGIT_ROWS);
    let input = input_width(config).and_then(|width| Input::bytes(rows, width));
    let input = input.map_or(u64::MAX, |bytes| bytes as u64);
    floats.saturating_mul(4).saturating_add(input)
}
