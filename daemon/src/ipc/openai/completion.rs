//! What `POST /v1/completions` takes. Invariant: a prompt is a text, token ids, or a list of either, and nothing else
//! passes for one.
use super::fields::{Fields, wrong};
use super::sampling;
use crate::errors::Failure;
use hyprstream_protocol::{Prompt, Sampling};
use serde_json::{Map, Value};

const PROMPTS_MAX: usize = 256;
const TOP_MAX: u8 = 20;

/// A request, understood.
#[derive(Debug)]
pub struct Completion {
    pub model: Option<String>,
    pub prompts: Vec<Prompt>,
    pub echo: bool,
    pub sampling: Sampling,
    pub stream: bool,
    pub include_usage: bool,
}

impl Completion {
    /// Reads OpenAI's parameters.
    pub fn read(body: Map<String, Value>) -> Result<Completion, Failure> {
        let mut fields = Fields::new(body);
        let prompts = prompts(fields.need("prompt")?)?;
        let mut sampling = sampling::sampling(&mut fields)?;
        sampling.logprobs = fields.whole("logprobs")?;
        if sampling.logprobs.is_some_and(|top| top > TOP_MAX) {
            return Err(Failure::bad_field(
                "logprobs",
                format!("`logprobs` must be from 0 to {TOP_MAX}"),
            ));
        }
        let echo = fields.flag("echo")?;
        let (stream, include_usage) = sampling::streaming(&mut fields)?;
        let model = fields.text("model")?;
        fields.none_left()?;
        Ok(Completion {
            model,
            prompts,
            echo,
            sampling,
            stream,
            include_usage,
        })
    }
}

/// A text, token ids, or a list of either.
fn prompts(value: Value) -> Result<Vec<Prompt>, Failure> {
    const WANTED: &str = "a string, a list of token ids, or a list of these";
    let list = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(list) => list,
        other => return Err(wrong("prompt", WANTED, &other)),
    };
    if list.first().is_some_and(Value::is_number) {
        return Ok(vec![Prompt::Tokens(ids(&list)?)]);
    }
    if list.is_empty() || list.len() > PROMPTS_MAX {
        let message = format!(
            "`prompt` must hold from 1 to {PROMPTS_MAX} prompts, not {}",
            list.len()
        );
        return Err(Failure::bad_field("prompt", message));
    }
    list.into_iter()
        .map(|item| match item {
            Value::String(text) => Ok(Prompt::Text(text)),
            Value::Array(list) => Ok(Prompt::Tokens(ids(&list)?)),
            other => Err(wrong("prompt", WANTED, &other)),
        })
        .collect()
}

fn ids(list: &[Value]) -> Result<Vec<u32>, Failure> {
    let id = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| {
            wrong(
                "prompt",
                "made of whole numbers where it is a list of token ids",
                value,
            )
        })
    };
    list.iter().map(id).collect()
}
