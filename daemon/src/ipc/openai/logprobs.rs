//! Log-probabilities in OpenAI's two forms: chat, and the older one of completions. Invariant: a token without text is
//! shown as `token_id:ID`, so that models without a tokenizer can be scored too.
use crate::models::Lease;
use hyprstream_protocol::{TokenEvent, TokenLogprob};
use serde_json::{Map, Value, json};

/// Text of tokens for log-probabilities.
pub struct Pieces(pub Option<Lease>);

impl Pieces {
    fn text(&self, token: u32) -> String {
        let model = self.0.as_ref().map(Lease::model);
        match model.filter(|model| model.tokenizer().is_some()) {
            Some(model) => model.piece(token),
            None => format!("token_id:{token}"),
        }
    }

    fn bytes(&self, token: u32) -> Option<Vec<u8>> {
        let model = self.0.as_ref().map(Lease::model)?;
        model.tokenizer()?.piece(token).map(|bytes| bytes.into_owned())
    }

    fn top_text(&self, top: &TokenLogprob) -> String {
        if top.text.is_empty() {
            self.text(top.token)
        } else {
            top.text.clone()
        }
    }

    /// One entry of a chat choice's `logprobs.content`.
    pub fn chat(&self, event: &TokenEvent) -> Option<Value> {
        let (token, logprob) = (event.token?, event.logprob?);
        let entry = |token: u32, text: String, logprob: f32| json!({"token": text, "logprob": logprob, "bytes": self.bytes(token)});
        let mut all = entry(token, self.text(token), logprob);
        let top: Vec<Value> = event
            .top
            .iter()
            .map(|t| entry(t.token, self.top_text(t), t.logprob))
            .collect();
        if let Some(fields) = all.as_object_mut() {
            fields.insert("top_logprobs".to_owned(), Value::Array(top));
        }
        Some(all)
    }
}

/// The `logprobs` of a completions choice, or of one chunk of it.
#[derive(Default)]
pub struct Legacy {
    tokens: Vec<String>,
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
}

impl Legacy {
    /// Adds a token whose text begins at character `offset` of the choice's text.
    pub fn push(&mut self, pieces: &Pieces, event: &TokenEvent, offset: usize) {
        let Some(token) = event.token else { return };
        let text = pieces.text(token);
        let mut top = Map::new();
        for alternative in &event.top {
            // Two tokens may have the same text, and the better one comes first.
            let text = pieces.top_text(alternative);
            if !top.contains_key(&text) {
                top.insert(text, json!(alternative.logprob));
            }
        }
        let top = if event.logprob.is_none() {
            Value::Null
        } else {
            Value::Object(top)
        };
        self.tokens.push(text);
        self.token_logprobs.push(event.logprob);
        self.top_logprobs.push(top);
        self.text_offset.push(offset);
    }

    /// As JSON.
    pub fn json(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        })
    }
}
