//! Flags that say how an answer is made, shared by `ask` and `chat`. Invariant: what is not given is not sent, so that the
//! daemon's settings fill it in.
use super::number;
use clap::Args;
use hyprstream_protocol::Sampling;

/// How tokens are chosen.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Sampling (left out: as the daemon is configured)")]
pub struct SamplingFlags {
    /// Write at most N tokens
    #[arg(long, value_name = "N", value_parser = number::tokens, allow_negative_numbers = true)]
    pub max_tokens: Option<u32>,
    /// 0 always takes the likeliest token; higher is more varied
    #[arg(short, long, value_name = "X", value_parser = number::between::<0, 5>, allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Choose among the K likeliest tokens; 0 is off
    #[arg(long, value_name = "K", value_parser = number::tokens, allow_negative_numbers = true)]
    pub top_k: Option<u32>,
    /// Choose among tokens of total probability P above 0; 1 is off
    #[arg(long, value_name = "P", value_parser = number::above_zero::<1>, allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Leave out tokens less likely than P times the likeliest
    #[arg(long, value_name = "P", value_parser = number::between::<0, 1>, allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Make tokens seen lately less likely; 1 is off
    #[arg(long, value_name = "X", value_parser = number::above_zero::<10>, allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,
    /// Penalties look back N tokens; 0 is all
    #[arg(long, value_name = "N", value_parser = number::tokens, allow_negative_numbers = true)]
    pub repeat_last: Option<u32>,
    /// Take X off each token seen lately
    #[arg(long, value_name = "X", value_parser = number::between::<-2, 2>, allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Take X off for each time a token was seen lately
    #[arg(long, value_name = "X", value_parser = number::between::<-2, 2>, allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Same seed, same question, same answer
    #[arg(long, value_name = "N", value_parser = number::seed, allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// End the answer before this text; may be given again
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Guess ahead from the text so far: the same text, often sooner
    #[arg(long, overrides_with = "no_speculation")]
    pub speculation: bool,
    /// Compute token by token
    #[arg(long, overrides_with = "speculation")]
    pub no_speculation: bool,
}

impl SamplingFlags {
    /// As the daemon takes it.
    pub fn sampling(&self) -> Sampling {
        Sampling {
            max_tokens: self.max_tokens,
            ignore_eos: false,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last: self.repeat_last,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed,
            stop: self.stop.clone(),
            logprobs: None,
            speculation: (self.speculation || self.no_speculation).then_some(self.speculation),
        }
    }
}

/// Whether the model thinks before it answers.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ThinkFlags {
    /// Have the model think first, if it can
    #[arg(long, overrides_with = "no_think")]
    pub think: bool,
    /// Have the model answer without thinking
    #[arg(long, overrides_with = "think")]
    pub no_think: bool,
}

impl ThinkFlags {
    /// Variables for the chat template.
    pub fn template_vars(self) -> serde_json::Map<String, serde_json::Value> {
        let mut vars = serde_json::Map::new();
        if self.think || self.no_think {
            vars.insert("enable_thinking".to_owned(), self.think.into());
        }
        vars
    }
}
