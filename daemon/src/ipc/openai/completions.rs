//! `POST /v1/completions`, the older route: plain prompts, `echo`, and scoring with `max_tokens: 0`. Invariant: the
//! choices stand in the order of the prompts.
use super::completion::Completion;
use super::logprobs::{Legacy, Pieces};
use super::{Head, OpenAiFailure, finish, sse, usage_json};
use crate::answer::{Order, begin};
use crate::app::App;
use crate::catalog::Entry;
use crate::errors::Failure;
use crate::ipc::stream::{Render, Streaming};
use crate::ipc::{body, reply};
use crate::prompt::Input;
use crate::score::{SCORED_MAX, too_much};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyprstream_protocol::{Event, JobKind, Priority, TokenEvent, Usage};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Prompts of one request that are at work together; the queue is for others too.
const TOGETHER: usize = 8;

/// The route.
pub async fn create(
    State(app): State<Arc<App>>,
    (Extension(peer), Extension(id)): reply::Asker,
    body: Body,
) -> Result<Response, OpenAiFailure> {
    let request = Completion::read(body::json(&app, peer, body).await?)?;
    let entry = app.entry(request.model.as_deref())?;
    let mut orders: VecDeque<Order> = VecDeque::new();
    for prompt in request.prompts {
        orders.push_back(Order {
            id: id.0.clone(),
            uid: peer.uid,
            kind: JobKind::Generate,
            entry: Arc::clone(&entry),
            input: Some(Input::Prompt {
                prompt,
                parse_special: true,
            }),
            sampling: request.sampling.clone(),
            echo: request.echo,
            priority: Priority::default(),
        });
    }
    let shape = Shape {
        echo: request.echo,
        logprobs: request.sampling.logprobs.is_some(),
    };
    let head = Head::new("cmpl", &id.0, "text_completion", &entry.name);
    let response = if request.stream {
        streamed(&app, head, shape, &entry, orders, request.include_usage).await?
    } else {
        whole(&app, head, shape, orders).await?
    };
    Ok(reply::with_id(response, &id.0))
}

#[derive(Clone, Copy)]
struct Shape {
    echo: bool,
    logprobs: bool,
}

async fn whole(
    app: &Arc<App>,
    head: Head,
    shape: Shape,
    orders: VecDeque<Order>,
) -> Result<Response, Failure> {
    let slots = Arc::new(Semaphore::new(TOGETHER));
    let scored = Arc::new(AtomicUsize::new(0));
    // Dropped with this task when the client hangs up, and then all of its tasks end.
    let mut tasks = JoinSet::new();
    for (index, order) in orders.into_iter().enumerate() {
        let (app, slots, scored) = (Arc::clone(app), Arc::clone(&slots), Arc::clone(&scored));
        tasks.spawn(async move {
            let _slot = slots.acquire_owned().await;
            choice(&app, shape, index, order, &scored).await
        });
    }
    let mut choices = Vec::new();
    let mut total = Usage::default();
    while let Some(done) = tasks.join_next().await {
        let (index, choice, usage) =
            done.unwrap_or_else(|_| Err(Failure::fault("a completion broke off")))?;
        choices.push((index, choice));
        total.add(&usage);
    }
    choices.sort_by_key(|(index, _)| *index);
    let choices = choices.into_iter().map(|(_, choice)| choice).collect();
    Ok(reply::ok(
        &head.with(Value::Array(choices), Some(usage_json(&total))),
    ))
}

async fn choice(
    app: &Arc<App>,
    shape: Shape,
    index: usize,
    order: Order,
    scored: &AtomicUsize,
) -> Result<(usize, Value, Usage), Failure> {
    let top = order.sampling.logprobs.unwrap_or(0);
    let entry = Arc::clone(&order.entry);
    let mut answer = begin(app, order)?;
    answer.started().await?;
    let mut part = Part::new(Pieces(app.models.acquire_now(&entry)), shape);
    let mut text = String::new();
    let mut logprobs = Legacy::default();
    while let Some(event) = answer.next().await {
        // Counted over all prompts of the request: they stand in one answer.
        let held = 1 + usize::from(top);
        if shape.logprobs && scored.fetch_add(held, Ordering::Relaxed) > SCORED_MAX {
            return Err(too_much(SCORED_MAX / held, top));
        }
        match event? {
            Event::Prompt(token) | Event::Token(token) => text.push_str(&part.take(token, &mut logprobs)),
            Event::Done { reason, usage, .. } => {
                let logprobs = shape.logprobs.then(|| logprobs.json());
                let reason = finish(reason);
                let choice =
                    json!({"text": text, "index": index, "logprobs": logprobs, "finish_reason": reason});
                return Ok((index, choice, usage));
            }
            _ => {}
        }
    }
    Err(Failure::fault("a completion had no end"))
}

/// Follows one choice's text, for the offsets of its tokens.
struct Part {
    pieces: Pieces,
    shape: Shape,
    chars: usize,
}

impl Part {
    fn new(pieces: Pieces, shape: Shape) -> Part {
        Part {
            pieces,
            shape,
            chars: 0,
        }
    }

    fn take(&mut self, token: TokenEvent, logprobs: &mut Legacy) -> String {
        if self.shape.logprobs {
            logprobs.push(&self.pieces, &token, self.chars);
        }
        self.chars += token.text.chars().count();
        token.text
    }
}

async fn streamed(
    app: &Arc<App>,
    head: Head,
    shape: Shape,
    entry: &Arc<Entry>,
    mut orders: VecDeque<Order>,
    include_usage: bool,
) -> Result<Response, Failure> {
    let first = orders
        .pop_front()
        .ok_or_else(|| Failure::fault("a completion without a prompt"))?;
    let mut answer = begin(app, first)?;
    answer.started().await?;
    let part = Part::new(Pieces(app.models.acquire_now(entry)), shape);
    let render = Chunks {
        head,
        part,
        include_usage,
        index: 0,
        total: Usage::default(),
        failed: false,
    };
    Ok(sse::response(
        Streaming::new(app, answer, None, render).then(orders).body(),
    ))
}

struct Chunks {
    head: Head,
    part: Part,
    include_usage: bool,
    index: usize,
    total: Usage,
    failed: bool,
}

impl Chunks {
    fn chunk(&self, text: &str, logprobs: Option<Value>, finish: Option<&str>, out: &mut Vec<u8>) {
        let choice =
            json!({"text": text, "index": self.index, "logprobs": logprobs, "finish_reason": finish});
        let usage = self.include_usage.then_some(Value::Null);
        sse::event(&self.head.with(json!([choice]), usage), out);
    }

    fn token(&mut self, token: TokenEvent, out: &mut Vec<u8>) {
        let mut logprobs = Legacy::default();
        let counted = token.token.is_some();
        let text = self.part.take(token, &mut logprobs);
        let logprobs = (self.part.shape.logprobs && counted).then(|| logprobs.json());
        if !text.is_empty() || logprobs.is_some() {
            self.chunk(&text, logprobs, None, out);
        }
    }
}

impl Render for Chunks {
    fn item(&mut self, index: usize, item: Result<Event, Failure>, out: &mut Vec<u8>) {
        if index != self.index {
            (self.index, self.part.chars) = (index, 0);
        }
        match item {
            Ok(Event::Prompt(token)) if self.part.shape.echo => self.token(token, out),
            Ok(Event::Token(token)) => self.token(token, out),
            Ok(Event::Done { reason, usage, .. }) => {
                self.total.add(&usage);
                self.chunk("", None, Some(finish(reason)), out);
            }
            Ok(_) => {}
            Err(failure) => {
                self.failed = true;
                sse::failed(&failure, out);
            }
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        if self.failed {
            return;
        }
        if self.include_usage {
            sse::event(&self.head.with(json!([]), Some(usage_json(&self.total))), out);
        }
        sse::done(out);
    }
}
