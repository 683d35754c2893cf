//! What a client may ask, one struct a route. Unknown fields are refused, so that a misspelt option never passes.
use crate::TokenLogprob;
use serde::{Deserialize, Serialize};

/// How tokens are chosen. Every field may be left out; the daemon's `[generation]` settings fill the gaps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Most tokens to generate. 0 generates nothing (to score a prompt).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Do not let the model end its answer: tokens come until `max_tokens`, a stop string or the end of the context. For
    /// measurements, which need answers of a known length.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ignore_eos: bool,
    /// 0 takes the likeliest token always (greedy); 1 samples as the model says. 0 to 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Sample among the k likeliest; 0 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Sample among the likeliest tokens that together have this probability; above 0, to 1 (off).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Sample among tokens at least this share as likely as the likeliest; 0 (off) to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Divide the logits of tokens seen lately by this (multiply, where negative); 1 is off, above 0 to 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_penalty: Option<f32>,
    /// Over how many of the last tokens the penalties look back; 0 is all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_last: Option<u32>,
    /// Subtract this once from the logit of a token generated lately; -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
    /// Subtract this from the logit for each time the token was generated lately; -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    /// Same seed, same request, same text. Left out: a new one each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// End before any of these strings; at most 16, none empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Report each token's log-probability and this many alternatives; 0 to 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u8>,
    /// Guess ahead from the text so far and check the guesses together (default), or compute token by token (`false`).
    /// The text is the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speculation: Option<bool>,
}

/// Before which other requests one runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before all others: somebody watches.
    Interactive,
    /// In between.
    #[default]
    Normal,
    /// When nothing else waits. Ten seconds of waiting raise a request by one class, so it always gets its turn.
    Batch,
}

impl Priority {
    fn is_normal(&self) -> bool {
        *self == Priority::Normal
    }
}

/// A prompt: text, or token ids as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of token ids")]
pub enum Prompt {
    /// Text, to be cut into tokens by the model's tokenizer.
    Text(String),
    /// Token ids, used as they are.
    Tokens(Vec<u32>),
}

/// `POST /generate`: continue a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerateRequest {
    /// Which model; left out: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What to continue.
    pub prompt: Prompt,
    /// Report the prompt's tokens too, as `prompt` events ahead of the first generated one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub echo: bool,
    /// How.
    #[serde(default)]
    pub sampling: Sampling,
    /// Before which other requests it runs.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Instructions that stand above the talk.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool's answer.
    Tool,
}

/// One turn of a talk. Further fields (`tool_calls`, `name`, ...) reach the chat template as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; `null` where a tool call stands alone.
    pub content: Option<String>,
    /// Whatever else the template knows.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A plain turn.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Message {
            role,
            content: Some(content.into()),
            extra: serde_json::Map::new(),
        }
    }
}

/// `POST /chat`: answer the last turn of a talk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChatRequest {
    /// Which model; left out: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The talk so far, oldest first.
    pub messages: Vec<Message>,
    /// Tools as JSON schemas, handed to the template.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<serde_json::Value>,
    /// Further variables for the template (`enable_thinking`, ...).
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub template_vars: serde_json::Map<String, serde_json::Value>,
    /// How to answer.
    #[serde(default)]
    pub sampling: Sampling,
    /// Before which other requests it runs.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
}

/// `POST /load`: bring a model into memory. The answer is a stream of `loading` events that ends with `done` or `error`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadRequest {
    /// Which model.
    pub model: String,
}

/// `POST /unload`: free a model's memory once its requests are through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnloadRequest {
    /// Which model.
    pub model: String,
}

/// The answer to `unload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelReply {
    /// The model's full name.
    pub model: String,
    /// Whether it was in memory before.
    pub was_loaded: bool,
}

/// The answer to `PUT /models/NAME`, whose body is the file, and to `DELETE /models/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileReply {
    /// The model's full name.
    pub model: String,
    /// Bytes that came to the disk, or went from it.
    pub bytes: u64,
}

/// `POST /tokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizeRequest {
    /// Which model; left out: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The text.
    pub text: String,
    /// Add what the model wants at the start (and end) of a text. Default: true.
    #[serde(default = "yes")]
    pub add_special: bool,
    /// Read `<|im_start|>` and the like in the text as the tokens that they name. Default: false.
    #[serde(default)]
    pub parse_special: bool,
}

fn yes() -> bool {
    true
}

/// The answer to `tokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizeReply {
    /// The model whose tokenizer it was.
    pub model: String,
    /// The tokens in order.
    pub tokens: Vec<TokenPiece>,
}

/// One token of a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenPiece {
    /// Id.
    pub token: u32,
    /// Its text alone; bytes that are no whole character show as U+FFFD.
    pub text: String,
}

/// `POST /detokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetokenizeRequest {
    /// Which model; left out: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Token ids.
    pub tokens: Vec<u32>,
}

/// The answer to `detokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetokenizeReply {
    /// The model whose tokenizer it was.
    pub model: String,
    /// The text; bytes that are no whole character show as U+FFFD.
    pub text: String,
}

/// `POST /score`: how likely a text is. Texts longer than the context are scored in windows, half a context apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreRequest {
    /// Which model; left out: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The text, or its tokens.
    pub prompt: Prompt,
    /// Report so many alternatives for each token; 0 to 20.
    #[serde(default)]
    pub top: u8,
    /// Before which other requests it runs.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
}

/// The answer to `score`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreReply {
    /// The model that scored.
    pub model: String,
    /// Tokens scored: all but the first.
    pub tokens: u32,
    /// Sum of the log-probabilities, natural logarithm.
    pub logprob: f64,
    /// `exp(-logprob / tokens)`.
    pub perplexity: f64,
    /// Each token in order; the first has no log-probability.
    pub scored: Vec<ScoredToken>,
}

/// One token of a scored text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoredToken {
    /// Id.
    pub token: u32,
    /// Its text alone; bytes that are no whole character show as U+FFFD.
    pub text: String,
    /// Natural logarithm of its probability after all before it.
    pub logprob: Option<f32>,
    /// The likeliest tokens in its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top: Vec<TokenLogprob>,
}

/// The answer to `DELETE /jobs/ID`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelReply {
    /// The job that ends.
    pub id: String,
}
