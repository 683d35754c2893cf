//! OpenAI's chat messages as the chat templates know them. Invariant: content that a text model cannot read is refused,
//! not skipped.
use super::fields::wrong;
use crate::errors::Failure;
use crate::said::said;
use serde_json::{Map, Value};

const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool", "function"];

/// All messages.
pub fn messages(list: Vec<Value>) -> Result<Vec<Value>, Failure> {
    if list.is_empty() {
        return Err(Failure::bad_field(
            "messages",
            "`messages` is empty; give at least one",
        ));
    }
    list.into_iter()
        .enumerate()
        .map(|(index, message)| one(&format!("messages[{index}]"), message))
        .collect()
}

fn one(at: &str, message: Value) -> Result<Value, Failure> {
    let Value::Object(mut message) = message else {
        return Err(wrong(at, "an object", &message));
    };
    let role = message.get("role").and_then(Value::as_str);
    let role = role.filter(|role| ROLES.contains(role)).ok_or_else(|| {
        Failure::bad_field(
            format!("{at}.role"),
            format!("`{at}.role` must be one of {}", ROLES.join(", ")),
        )
    })?;
    // OpenAI's newer name for the same thing; templates know the older one.
    if role == "developer" {
        message.insert("role".to_owned(), "system".into());
    }
    let content = match message.remove("content") {
        None | Some(Value::Null)
            if message.contains_key("tool_calls") || message.contains_key("function_call") =>
        {
            Value::Null
        }
        None | Some(Value::Null) => {
            let field = format!("{at}.content");
            return Err(Failure::bad_field(field.clone(), format!("`{field}` is missing")));
        }
        Some(content) => Value::String(text(&format!("{at}.content"), content)?),
    };
    message.insert("content".to_owned(), content);
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        calls.iter_mut().for_each(open_arguments);
    }
    Ok(Value::Object(message))
}

fn text(at: &str, content: Value) -> Result<String, Failure> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(wrong(at, "a string or a list of parts", &other)),
    };
    let mut all = String::new();
    for (index, part) in parts.iter().enumerate() {
        let at = format!("{at}[{index}]");
        match (
            part.get("type").and_then(Value::as_str),
            part.get("text").and_then(Value::as_str),
        ) {
            (Some("text"), Some(text)) => all.push_str(text),
            (Some("text"), None) => {
                return Err(Failure::bad_field(at.clone(), format!("`{at}.text` is missing")));
            }
            (Some(kind), _) => {
                let message = format!("`{at}` is of type {:?}; only text is supported", said(kind));
                return Err(Failure::bad_field(at, message));
            }
            (None, _) => return Err(Failure::bad_field(at.clone(), format!("`{at}.type` is missing"))),
        }
    }
    Ok(all)
}

/// OpenAI sends a call's arguments as JSON in a string; templates want the object.
fn open_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else {
        return;
    };
    if let Some(text) = arguments.as_str()
        && let Ok(object) = serde_json::from_str::<Map<String, Value>>(text)
    {
        *arguments = Value::Object(object);
    }
}
