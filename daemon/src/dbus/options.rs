//! The options of a call, `a{sv}`, as fields of the socket's request. Invariant: both doors take the same names, and one
//! that neither knows is refused by name.
use super::pipe::Format;
use crate::errors::Failure;
use crate::said::said;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};
use std::collections::HashMap;
use zbus::{OwnedVariant, Variant};

/// Fields of the request itself; all others are how tokens are chosen.
const OUTER: &[&str] = &["echo", "priority", "tools", "template_vars"];
/// Containers in containers, at most.
pub const DEPTH_MAX: usize = 16;
/// Values in one option, all containers together.
pub const VALUES_MAX: usize = 4096;

/// What a caller gave, by the names on the bus.
pub type Given = HashMap<String, OwnedVariant>;

/// Options, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// What goes through the pipe.
    pub format: Format,
    /// Instructions that stand above a session's talk.
    pub system: Option<String>,
    outer: Map<String, Value>,
    sampling: Map<String, Value>,
}

impl Options {
    /// Sorts what a caller gave.
    pub fn read(given: Given) -> Result<Options, Failure> {
        let mut options = Options::default();
        for (name, value) in given {
            let json = in_json(&value, 0, &mut { VALUES_MAX }).ok_or_else(|| unfit(&name, &value))?;
            match name.as_str() {
                "format" => options.format = format(&json)?,
                "system" => options.system = Some(text(&json)?),
                outer if OUTER.contains(&outer) => _ = options.outer.insert(name, json),
                _ => _ = options.sampling.insert(name, json),
            }
        }
        Ok(options)
    }

    /// These, and `over` where it says something else.
    pub fn with(&self, over: Options) -> Options {
        let mut all = self.clone();
        all.format = over.format;
        all.outer.extend(over.outer);
        all.sampling.extend(over.sampling);
        all
    }

    /// Refuses what only sessions have.
    pub fn no_session(self) -> Result<Options, Failure> {
        match self.system {
            None => Ok(self),
            Some(_) => Err(Failure::bad_field(
                "system",
                "`system` is for OpenSession alone; here, give a message with the role system",
            )),
        }
    }

    /// The request that the socket would have got.
    pub fn request<T: DeserializeOwned>(
        self,
        model: &str,
        fields: impl IntoIterator<Item = (&'static str, Value)>,
    ) -> Result<T, Failure> {
        let mut request = self.outer;
        if !model.is_empty() {
            request.insert("model".into(), model.into());
        }
        request.insert("sampling".into(), Value::Object(self.sampling));
        request.extend(fields.into_iter().map(|(name, value)| (name.to_owned(), value)));
        serde_path_to_error::deserialize(Value::Object(request)).map_err(|error| {
            let path = error.path().to_string();
            let field = said(path.strip_prefix("sampling.").unwrap_or(&path));
            let why = said(&error.inner().to_string());
            match field.as_str() {
                "." | "sampling" | "" => Failure::bad_field("options", format!("options: {why}")),
                _ => Failure::bad_field(field.clone(), format!("`{field}` is not right: {why}")),
            }
        })
    }
}

/// Why an option cannot become JSON.
fn unfit(name: &str, value: &Variant<'_>) -> Failure {
    let name = said(name);
    let message = match value {
        Variant::F64(number) if !number.is_finite() => format!("`{name}` must be a number, not {number}"),
        _ => format!("`{name}` has a type that no option has, or too many values"),
    };
    Failure::bad_field(name, message)
}

fn format(value: &Value) -> Result<Format, Failure> {
    match value.as_str() {
        Some("text") => Ok(Format::Text),
        Some("events") => Ok(Format::Events),
        _ => Err(Failure::bad_field(
            "format",
            "`format` must be \"text\" or \"events\"",
        )),
    }
}

fn text(value: &Value) -> Result<String, Failure> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| Failure::bad_field("system", "`system` must be a text"))
}

/// `None` for types that JSON does not have, and where more values come than are `left`.
fn in_json(value: &Variant<'_>, depth: usize, left: &mut usize) -> Option<Value> {
    *left = left.checked_sub(1)?;
    if depth > DEPTH_MAX {
        return None;
    }
    Some(match value {
        Variant::Bool(truth) => Value::Bool(*truth),
        Variant::U8(number) => Value::from(*number),
        Variant::I16(number) => Value::from(*number),
        Variant::U16(number) => Value::from(*number),
        Variant::I32(number) => Value::from(*number),
        Variant::U32(number) => Value::from(*number),
        Variant::I64(number) => Value::from(*number),
        Variant::U64(number) => Value::from(*number),
        Variant::F64(number) => Value::Number(Number::from_f64(*number)?),
        Variant::Str(text) => Value::String(text.as_str().to_owned()),
        Variant::Variant(inner) => in_json(inner, depth + 1, left)?,
        Variant::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| in_json(item, depth + 1, left))
                .collect::<Option<_>>()?,
        ),
        Variant::Dict(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, value)| match key {
                    Variant::Str(key) => Some((key.as_str().to_owned(), in_json(value, depth + 1, left)?)),
                    _ => None,
                })
                .collect::<Option<_>>()?,
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyprstream_protocol::{ErrorBody, GenerateRequest, Priority};

    fn given(pairs: Vec<(&str, Variant<'static>)>) -> Given {
        let owned = pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), OwnedVariant::try_from(value).unwrap()));
        owned.collect()
    }

    fn request(pairs: Vec<(&str, Variant<'static>)>) -> Result<GenerateRequest, ErrorBody> {
        Options::read(given(pairs))
            .and_then(Options::no_session)
            .and_then(|options| options.request("m", [("prompt", Value::from("x"))]))
            .map_err(|failure| failure.0)
    }

    #[test]
    fn names_and_types_are_those_of_the_socket() {
        let request = request(vec![
            ("max_tokens", Variant::new(5i32)),
            ("temperature", Variant::new(0.5f64)),
            ("stop", Variant::new(vec!["a", "b"])),
            ("speculation", Variant::new(false)),
            ("priority", Variant::new("batch")),
            ("echo", Variant::new(true)),
            ("format", Variant::new("events")),
        ])
        .unwrap();
        assert_eq!(request.model.as_deref(), Some("m"));
        assert_eq!(request.sampling.max_tokens, Some(5));
        assert_eq!(request.sampling.temperature, Some(0.5));
        assert_eq!(request.sampling.stop, ["a", "b"]);
        assert_eq!(request.sampling.speculation, Some(false));
        assert_eq!((request.priority, request.echo), (Priority::Batch, true));
    }

    #[test]
    fn what_is_unknown_or_wrong_is_named() {
        let message = |name, value| request(vec![(name, value)]).unwrap_err().message;
        let said = message("temprature", Variant::new(1.0f64));
        assert!(
            said.contains("temprature") && said.contains("temperature"),
            "{said}"
        );
        let said = message("max_tokens", Variant::new(-1i32));
        assert!(said.contains("`max_tokens`"), "{said}");
        for (odd, word) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
            let told = message("top_p", Variant::new(odd));
            assert_eq!(told, format!("`top_p` must be a number, not {word}"));
        }
        let long = "x".repeat(100_000);
        for value in [Variant::new(1u8), Variant::new(f64::NAN)] {
            let failure = request(vec![(&long, value)]).unwrap_err();
            assert!(failure.message.len() < 1000, "{} bytes", failure.message.len());
            assert!(failure.field.is_none_or(|field| field.len() < 1000));
        }
        assert!(message("format", Variant::new("xml")).contains("events"));
        assert!(message("system", Variant::new("be kind")).contains("OpenSession"));
        let mut deep = Variant::new(1u8);
        for _ in 0..20 {
            deep = Variant::Variant(Box::new(deep));
        }
        assert!(message("stop", Variant::new(vec![7u8; VALUES_MAX])).contains("too many"));
        assert!(message("stop", deep).contains("`stop`"));
    }
}
