//! OpenAI's sampling parameters as ours, and the parameters that are refused. Invariant: one table lists what both
//! routes refuse.
use super::fields::{Fields, wrong};
use crate::errors::Failure;
use hyprstream_protocol::Sampling;
use serde_json::{Value, json};

/// Parameters that would change the answer and that nothing here obeys.
const REFUSED: &[&str] = &[
    "audio",
    "function_call",
    "functions",
    "grammar",
    "guided_choice",
    "guided_grammar",
    "guided_json",
    "guided_regex",
    "logit_bias",
    "prediction",
    "suffix",
    "use_beam_search",
    "web_search_options",
];

/// The parameters that chat and completions share.
pub fn sampling(fields: &mut Fields) -> Result<Sampling, Failure> {
    let harmless = [json!({}), json!([]), json!(""), json!(false)];
    for name in REFUSED {
        fields.refuse(name, &harmless)?;
    }
    for name in ["n", "best_of"] {
        if fields.whole::<u32>(name)?.is_some_and(|n| n != 1) {
            return Err(Failure::bad_field(
                name,
                format!("`{name}` can only be 1; send several requests instead"),
            ));
        }
    }
    let max_tokens = fields.whole("max_tokens")?;
    let wanted = Sampling {
        max_tokens: fields.whole("max_completion_tokens")?.or(max_tokens),
        ignore_eos: false,
        temperature: fields.number("temperature")?,
        top_k: fields.whole("top_k")?,
        top_p: fields.number("top_p")?,
        min_p: fields.number("min_p")?,
        repeat_penalty: fields
            .number("repeat_penalty")?
            .or(fields.number("repetition_penalty")?),
        repeat_last: None,
        presence_penalty: fields.number("presence_penalty")?,
        frequency_penalty: fields.number("frequency_penalty")?,
        seed: seed(fields)?,
        stop: stop(fields)?,
        logprobs: None,
        speculation: fields.truth("speculation")?,
    };
    Ok(wanted)
}

/// OpenAI's seeds are signed.
fn seed(fields: &mut Fields) -> Result<Option<u64>, Failure> {
    match fields.take("seed") {
        None => Ok(None),
        Some(value) => match value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned)) {
            Some(seed) => Ok(Some(seed)),
            None => Err(wrong("seed", "a whole number", &value)),
        },
    }
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, Failure> {
    match fields.take("stop") {
        None => Ok(Vec::new()),
        Some(Value::String(stop)) => Ok(vec![stop]),
        Some(Value::Array(list)) => list
            .into_iter()
            .map(|item| match item {
                Value::String(stop) => Ok(stop),
                other => Err(wrong("stop", "a string or a list of strings", &other)),
            })
            .collect(),
        Some(other) => Err(wrong("stop", "a string or a list of strings", &other)),
    }
}

/// `stream`, and whether the last chunk is to carry the usage.
pub fn streaming(fields: &mut Fields) -> Result<(bool, bool), Failure> {
    let stream = fields.flag("stream")?;
    let options = fields.object("stream_options")?;
    let include = options
        .and_then(|options| options.get("include_usage")?.as_bool())
        .unwrap_or(false);
    Ok((stream, include))
}
