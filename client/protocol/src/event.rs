//! What a streaming answer consists of: one JSON object a line (NDJSON), the last one `done` or `error`.
use crate::ErrorBody;
use serde::{Deserialize, Serialize};

/// One line of a streaming answer, tagged by `event`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The model is not in memory yet. Sent again as the load goes on.
    Loading {
        /// The model's name.
        model: String,
        /// What is being waited for.
        stage: LoadStage,
        /// Share done, 0 to 1, where it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        progress: Option<f32>,
    },
    /// The request waits for its turn.
    Queued {
        /// How many requests stand before it.
        ahead: u32,
    },
    /// The request runs.
    Started {
        /// The request's id: the same as in the journal and in `hyp ps`.
        id: String,
        /// The model that answers.
        model: String,
        /// Prompt length in tokens.
        prompt_tokens: u32,
    },
    /// One token of the prompt, if `echo` was asked for. The first one has no log-probability.
    Prompt(TokenEvent),
    /// One more token, or the rest of a text held back by a stop string or an incomplete character.
    Token(TokenEvent),
    /// The end of a complete answer.
    Done {
        /// Why it ended.
        reason: FinishReason,
        /// What it used.
        usage: Usage,
        /// How long it took.
        timings: Timings,
    },
    /// The end of an answer that failed on the way.
    Error(ErrorBody),
}

/// What a load is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadStage {
    /// Another load goes first.
    Waiting,
    /// The files are opened and checked.
    Opening,
    /// The tokenizer is built.
    Tokenizer,
    /// The weights are brought into memory.
    Weights,
    /// The weights are put into the order that the processor reads fastest: once for each model, where they can be kept.
    Packing,
    /// The model can answer.
    Ready,
}

/// One generated token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenEvent {
    /// The text that became certain with this token: whole characters, possibly none.
    pub text: String,
    /// The token's id; absent where text that was held back is let go at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u32>,
    /// Natural logarithm of the token's probability, if log-probabilities were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprob: Option<f32>,
    /// The most likely tokens at this position, best first, if asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<TokenLogprob>,
}

/// A token and its log-probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Id.
    pub token: u32,
    /// Text of the token alone; bytes that are no whole character show as U+FFFD.
    pub text: String,
    /// Natural logarithm of the probability.
    pub logprob: f32,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string came.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
}

/// What a request used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated.
    pub completion_tokens: u32,
    /// Tokens of the prompt that were computed for an earlier request of the same user, and not again.
    #[serde(default)]
    pub cached_tokens: u32,
    /// Tokens that speculation guessed.
    #[serde(default)]
    pub drafted_tokens: u32,
    /// Guesses that came true, each of which saved a step.
    #[serde(default)]
    pub accepted_tokens: u32,
}

impl Usage {
    /// Counts another answer in.
    pub fn add(&mut self, other: &Usage) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.drafted_tokens = self.drafted_tokens.saturating_add(other.drafted_tokens);
        self.accepted_tokens = self.accepted_tokens.saturating_add(other.accepted_tokens);
    }
}

/// How long a request took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Waiting for a turn.
    pub queue_ms: f64,
    /// Reading the prompt.
    pub prefill_ms: f64,
    /// Writing the answer.
    pub decode_ms: f64,
}
