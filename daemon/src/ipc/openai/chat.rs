//! `POST /v1/chat/completions`. Invariant: the streamed pieces put together are the answer that is given whole.
use super::fields::{Fields, wrong};
use super::logprobs::Pieces;
use super::{Head, OpenAiFailure, finish, messages, sampling, sse, usage_json};
use crate::answer::{Answer, Order, begin};
use crate::app::App;
use crate::errors::Failure;
use crate::ipc::stream::{Render, Streaming};
use crate::ipc::{body, reply};
use crate::prompt::Input;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyprstream_protocol::{Event, JobKind, Priority, Sampling, TokenEvent};
use serde_json::{Map, Value, json};
use std::sync::Arc;

const TOP_MAX: u8 = 20;

/// A request, understood.
#[derive(Debug)]
pub struct ChatCompletion {
    pub model: Option<String>,
    pub messages: Vec<Value>,
    pub tools: Vec<Value>,
    pub vars: Map<String, Value>,
    pub sampling: Sampling,
    pub stream: bool,
    pub include_usage: bool,
}

impl ChatCompletion {
    /// Reads OpenAI's parameters.
    pub fn read(body: Map<String, Value>) -> Result<ChatCompletion, Failure> {
        let mut fields = Fields::new(body);
        let list = match fields.need("messages")? {
            Value::Array(list) => list,
            other => return Err(wrong("messages", "a list", &other)),
        };
        let mut sampling = sampling::sampling(&mut fields)?;
        let top = fields.whole::<u8>("top_logprobs")?;
        if top.is_some_and(|top| top > TOP_MAX) {
            return Err(Failure::bad_field(
                "top_logprobs",
                format!("`top_logprobs` must be from 0 to {TOP_MAX}"),
            ));
        }
        match (fields.flag("logprobs")?, top) {
            (true, top) => sampling.logprobs = Some(top.unwrap_or(0)),
            (false, Some(top)) if top > 0 => {
                return Err(Failure::bad_field(
                    "top_logprobs",
                    "`top_logprobs` needs `logprobs`: true",
                ));
            }
            (false, _) => {}
        }
        text_only(&mut fields)?;
        let tools = tools(&mut fields)?;
        let mut vars = fields.object("chat_template_kwargs")?.unwrap_or_default();
        if let Some(effort) = fields.text("reasoning_effort")? {
            vars.insert("reasoning_effort".to_owned(), effort.into());
        }
        let (stream, include_usage) = sampling::streaming(&mut fields)?;
        let messages = messages::messages(list)?;
        let model = fields.text("model")?;
        fields.none_left()?;
        Ok(ChatCompletion {
            model,
            messages,
            tools,
            vars,
            sampling,
            stream,
            include_usage,
        })
    }
}

fn text_only(fields: &mut Fields) -> Result<(), Failure> {
    fields.refuse("modalities", &[json!(["text"]), json!([])])?;
    match fields.object("response_format")? {
        Some(format) if format.get("type").is_some_and(|kind| kind != "text") => {
            let message = "`response_format` can only be {\"type\": \"text\"}; JSON modes are not supported";
            Err(Failure::bad_field("response_format", message))
        }
        _ => Ok(()),
    }
}

fn tools(fields: &mut Fields) -> Result<Vec<Value>, Failure> {
    let tools = fields.list("tools")?;
    match fields.take("tool_choice") {
        None => Ok(tools),
        Some(Value::String(choice)) if choice == "auto" => Ok(tools),
        Some(Value::String(choice)) if choice == "none" => Ok(Vec::new()),
        Some(_) => {
            let message = "`tool_choice` can only be \"auto\" or \"none\"; a call cannot be forced";
            Err(Failure::bad_field("tool_choice", message))
        }
    }
}

/// The route.
pub async fn create(
    State(app): State<Arc<App>>,
    (Extension(peer), Extension(id)): reply::Asker,
    body: Body,
) -> Result<Response, OpenAiFailure> {
    let request = ChatCompletion::read(body::json(&app, peer, body).await?)?;
    let entry = app.entry(request.model.as_deref())?;
    let order = Order {
        id: id.0,
        uid: peer.uid,
        kind: JobKind::Chat,
        entry: Arc::clone(&entry),
        input: Some(Input::Chat {
            messages: request.messages,
            tools: request.tools,
            vars: request.vars,
        }),
        sampling: request.sampling,
        echo: false,
        priority: Priority::default(),
    };
    let mut answer = begin(&app, order)?;
    answer.started().await?;
    let id = answer.id().to_owned();
    let pieces = Pieces(app.models.acquire_now(&entry));
    let response = if request.stream {
        let head = Head::new("chatcmpl", &id, "chat.completion.chunk", &entry.name);
        let render = Chunks {
            head,
            pieces,
            include_usage: request.include_usage,
            begun: false,
        };
        sse::response(Streaming::new(&app, answer, None, render).body())
    } else {
        let head = Head::new("chatcmpl", &id, "chat.completion", &entry.name);
        whole(head, &pieces, &mut answer).await?
    };
    Ok(reply::with_id(response, &id))
}

async fn whole(head: Head, pieces: &Pieces, answer: &mut Answer) -> Result<Response, Failure> {
    let mut text = String::new();
    let mut content = Vec::new();
    while let Some(event) = answer.next().await {
        match event? {
            Event::Token(token) => {
                text.push_str(&token.text);
                content.extend(pieces.chat(&token));
            }
            Event::Done { reason, usage, .. } => {
                let logprobs = (!content.is_empty()).then(|| json!({"content": content, "refusal": null}));
                let choice = json!({
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "refusal": null},
                    "logprobs": logprobs,
                    "finish_reason": finish(reason),
                });
                return Ok(reply::ok(&head.with(json!([choice]), Some(usage_json(&usage)))));
            }
            _ => {}
        }
    }
    Err(Failure::fault("a chat answer had no end"))
}

struct Chunks {
    head: Head,
    pieces: Pieces,
    include_usage: bool,
    begun: bool,
}

impl Chunks {
    fn chunk(&mut self, mut delta: Value, logprobs: Option<Value>, finish: Option<&str>, out: &mut Vec<u8>) {
        if !self.begun
            && let Some(fields) = delta.as_object_mut()
        {
            fields.insert("role".to_owned(), "assistant".into());
            self.begun = true;
        }
        let choice = json!({"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish});
        // With `include_usage` every chunk but the last has a null there.
        let usage = self.include_usage.then_some(Value::Null);
        sse::event(&self.head.with(json!([choice]), usage), out);
    }

    fn token(&mut self, token: &TokenEvent, out: &mut Vec<u8>) {
        let logprobs = self
            .pieces
            .chat(token)
            .map(|entry| json!({"content": [entry], "refusal": null}));
        if !token.text.is_empty() || logprobs.is_some() || !self.begun {
            self.chunk(json!({"content": token.text}), logprobs, None, out);
        }
    }
}

impl Render for Chunks {
    fn item(&mut self, _index: usize, item: Result<Event, Failure>, out: &mut Vec<u8>) {
        match item {
            Ok(Event::Token(token)) => self.token(&token, out),
            Ok(Event::Done { reason, usage, .. }) => {
                self.chunk(json!({}), None, Some(finish(reason)), out);
                if self.include_usage {
                    sse::event(&self.head.with(json!([]), Some(usage_json(&usage))), out);
                }
                sse::done(out);
            }
            Ok(_) => {}
            Err(failure) => sse::failed(&failure, out),
        }
    }

    fn end(&mut self, _out: &mut Vec<u8>) {}
}
