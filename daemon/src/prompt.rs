//! From what a client sends to token ids. Invariant: cutting a text into tokens never holds up the tasks of others, and
//! the memory that it takes (some hundred bytes a byte of text) is bounded: few long texts at once, and none that is
//! certain not to fit.
use crate::errors::Failure;
use crate::models::Lease;
use hyprstream_engine::Model;
use hyprstream_model::{TemplateInput, Tokenizer};
use hyprstream_protocol::Prompt;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::{Semaphore, SemaphorePermit};

/// What to do where a model cannot chat.
const NO_CHAT: &str =
    "choose another model, or send a plain prompt (`hyp ask --raw`, or POST /hyprstream/v1/generate)";

/// Texts from this length on wait for their turn.
const LONG_BYTES: usize = 64 << 10;
/// So many of them are cut at once.
const LONG_MAX: usize = 2;
/// The beginning of a long text that is cut first: so many bytes for each token that may be there. Where that alone is
/// too much, the rest is not looked at.
const TASTE_BYTES: usize = 16;

static LONG: Semaphore = Semaphore::const_new(LONG_MAX);

/// What a request gives the model to read.
pub enum Input {
    /// A text or token ids.
    Prompt {
        /// The text, or its tokens.
        prompt: Prompt,
        /// Read `<|im_start|>` and the like as the tokens that they name.
        parse_special: bool,
    },
    /// A talk, for the chat template.
    Chat {
        /// Turns as JSON.
        messages: Vec<Value>,
        /// Tools as JSON schemas.
        tools: Vec<Value>,
        /// Further variables.
        vars: Map<String, Value>,
    },
}

impl Input {
    /// Length of its texts.
    fn bytes(&self) -> usize {
        match self {
            Input::Prompt {
                prompt: Prompt::Text(text),
                ..
            } => text.len(),
            Input::Prompt { .. } => 0,
            Input::Chat { messages, .. } => {
                let contents = messages
                    .iter()
                    .filter_map(|message| message.get("content")?.as_str());
                contents.map(str::len).sum()
            }
        }
    }
}

/// The model's tokenizer.
pub fn tokenizer(model: &Model) -> Result<&Arc<Tokenizer>, Failure> {
    let lacks = || Failure::lacks(model.name(), "tokenizer", "send token ids instead of text");
    model.tokenizer().ok_or_else(lacks)
}

/// The right to cut a text of this length; short ones need none.
pub async fn turn(bytes: usize) -> Option<SemaphorePermit<'static>> {
    if bytes < LONG_BYTES {
        return None;
    }
    // It fails only when the semaphore is closed, which nobody does.
    LONG.acquire().await.ok()
}

/// The token ids of an input, of which there may be `tokens_max`: the context, where there is no other limit.
pub async fn tokens_of(lease: &Lease, input: Input, tokens_max: usize) -> Result<Vec<u32>, Failure> {
    // Ids need no work.
    if let Input::Prompt {
        prompt: Prompt::Tokens(tokens),
        ..
    } = input
    {
        return Ok(tokens);
    }
    let _turn = turn(input.bytes()).await;
    let lease = lease.clone();
    let working = tokio::task::spawn_blocking(move || encode(lease.model(), &input, tokens_max));
    working
        .await
        .unwrap_or_else(|_| Err(Failure::fault("the tokenizer broke off")))
}

fn encode(model: &Model, input: &Input, tokens_max: usize) -> Result<Vec<u32>, Failure> {
    match input {
        Input::Prompt {
            prompt: Prompt::Tokens(tokens),
            ..
        } => Ok(tokens.clone()),
        Input::Prompt {
            prompt: Prompt::Text(text),
            parse_special,
        } => {
            refuse_too_long(model, text, *parse_special, tokens_max)?;
            Ok(tokenizer(model)?.encode(text, true, *parse_special)?)
        }
        Input::Chat {
            messages,
            tools,
            vars,
        } => {
            let text = render(model, messages, tools, vars)?;
            refuse_too_long(model, &text, true, tokens_max)?;
            // The template writes what stands at the start itself.
            Ok(tokenizer(model)?.encode(&text, false, true)?)
        }
    }
}

/// Refuses a text whose beginning alone has more tokens than fit.
fn refuse_too_long(model: &Model, text: &str, parse_special: bool, tokens_max: usize) -> Result<(), Failure> {
    let taste = tokens_max.saturating_mul(TASTE_BYTES).max(LONG_BYTES);
    if text.len() <= taste {
        return Ok(());
    }
    let beginning = &text[..text.floor_char_boundary(taste)];
    let tokens = tokenizer(model)?.encode(beginning, false, parse_special)?.len();
    if tokens > tokens_max {
        return Err(Failure::too_long(tokens, tokens_max));
    }
    Ok(())
}

fn render(
    model: &Model,
    messages: &[Value],
    tools: &[Value],
    vars: &Map<String, Value>,
) -> Result<String, Failure> {
    let tokenizer = tokenizer(model)?;
    if let Some(error) = model.template_error() {
        let what = format!("chat template that can be used ({error})");
        return Err(Failure::lacks(model.name(), &what, NO_CHAT));
    }
    let lacks = || Failure::lacks(model.name(), "chat template", NO_CHAT);
    let template = model.template().ok_or_else(lacks)?;
    let input = |tools| TemplateInput {
        messages,
        tools,
        add_generation_prompt: true,
        bos_token: tokenizer.bos_text(),
        eos_token: tokenizer.eos_text(),
        vars,
        now: SystemTime::now(),
    };
    let text = template.render(&input(tools))?;
    if !tools.is_empty() && template.render(&input(&[])).is_ok_and(|without| without == text) {
        return Err(Failure::lacks(
            model.name(),
            "place for tools in its chat template",
            "leave them out, or choose a model that was made for tools",
        ));
    }
    Ok(text)
}
