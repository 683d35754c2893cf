//! Takes parameters out of a JSON object, one by one. Invariant: a wrong type names the parameter; `null` is the same as
//! absent, as in OpenAI's API.
use crate::errors::Failure;
use crate::said::said;
use serde_json::{Map, Value};

/// Parameters that change nothing in an answer: bookkeeping of OpenAI's own service, and hints for its speed.
const HARMLESS: &[&str] = &[
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
    "verbosity",
];

/// The parameters of one request.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Of a request's body.
    pub fn new(body: Map<String, Value>) -> Fields {
        Fields(body)
    }

    /// Any value.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// A value that must be there.
    pub fn need(&mut self, name: &str) -> Result<Value, Failure> {
        self.take(name)
            .ok_or_else(|| Failure::bad_field(name, format!("`{name}` is missing")))
    }

    /// A text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, "a string", &other)),
        }
    }

    /// A truth value.
    pub fn truth(&mut self, name: &str) -> Result<Option<bool>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(truth)),
            Some(other) => Err(wrong(name, "true or false", &other)),
        }
    }

    /// A truth value; absent is false.
    pub fn flag(&mut self, name: &str) -> Result<bool, Failure> {
        Ok(self.truth(name)?.unwrap_or(false))
    }

    /// A number.
    pub fn number(&mut self, name: &str) -> Result<Option<f32>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(number) => Ok(Some(number as f32)),
                None => Err(wrong(name, "a number", &value)),
            },
        }
    }

    /// A whole number that is not negative.
    pub fn whole<T: TryFrom<u64>>(&mut self, name: &str) -> Result<Option<T>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_u64().and_then(|number| T::try_from(number).ok()) {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(name, "a whole number in its range", &value)),
            },
        }
    }

    /// An object.
    pub fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, Failure> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => Err(wrong(name, "an object", &other)),
        }
    }

    /// A list.
    pub fn list(&mut self, name: &str) -> Result<Vec<Value>, Failure> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list),
            Some(other) => Err(wrong(name, "a list", &other)),
        }
    }

    /// Refuses what nobody took: a parameter that is passed over in silence would look as if it were obeyed.
    pub fn none_left(mut self) -> Result<(), Failure> {
        for name in HARMLESS {
            self.0.remove(*name);
        }
        match self.0.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((name, _)) => {
                let shown = said(name);
                let message = format!("there is no parameter `{shown}`; leave it out");
                Err(Failure::bad_field(shown, message))
            }
        }
    }

    /// Refuses a parameter that is there with a value other than the ones that change nothing.
    pub fn refuse(&mut self, name: &str, harmless: &[Value]) -> Result<(), Failure> {
        match self.take(name) {
            Some(value) if !harmless.contains(&value) => {
                let message = format!("`{name}` is not supported; leave it out");
                Err(Failure::bad_field(name, message))
            }
            _ => Ok(()),
        }
    }
}

/// A value has the wrong type.
pub fn wrong(name: &str, expected: &str, found: &Value) -> Failure {
    let found = match found {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(_) => "a string".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    };
    Failure::bad_field(name, format!("`{name}` must be {expected}, not {found}"))
}
