//! From what a client sends to token ids. Invariant: cutting a text into tokens never holds up the tasks of others.
use crate::errors::Failure;
use crate::models::Lease;
use hyprstream_engine::Model;
use hyprstream_model::{TemplateInput, Tokenizer};
use hyprstream_protocol::Prompt;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::SystemTime;

/// What to do where a model cannot chat.
const NO_CHAT: &str =
    "choose another model, or send a plain prompt (`hyp ask --raw`, or POST /hyprstream/v1/generate)";

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

/// The model's tokenizer.
pub fn tokenizer(model: &Model) -> Result<&Arc<Tokenizer>, Failure> {
    let lacks = || Failure::lacks(model.name(), "tokenizer", "send token ids instead of text");
    model.tokenizer().ok_or_else(lacks)
}

/// The token ids of an input.
pub async fn tokens_of(lease: &Lease, input: Input) -> Result<Vec<u32>, Failure> {
    // Ids need no work, and a short text less than the way to another thread.
    if let Input::Prompt {
        prompt: Prompt::Tokens(tokens),
        ..
    } = input
    {
        return Ok(tokens);
    }
    let lease = lease.clone();
    let working = tokio::task::spawn_blocking(move || encode(lease.model(), &input));
    working
        .await
        .unwrap_or_else(|_| Err(Failure::fault("the tokenizer broke off")))
}

fn encode(model: &Model, input: &Input) -> Result<Vec<u32>, Failure> {
    match input {
        Input::Prompt {
            prompt: Prompt::Tokens(tokens),
            ..
        } => Ok(tokens.clone()),
        Input::Prompt {
            prompt: Prompt::Text(text),
            parse_special,
        } => Ok(tokenizer(model)?.encode(text, true, *parse_special)?),
        Input::Chat {
            messages,
            tools,
            vars,
        } => {
            let text = render(model, messages, tools, vars)?;
            // The template writes what stands at the start itself.
            Ok(tokenizer(model)?.encode(&text, false, true)?)
        }
    }
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
