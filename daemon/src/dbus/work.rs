//! Carries an answer from the engine to whoever called: through a pipe, as a whole text, or as nothing but a job's
//! progress. Invariant: when the caller cancels, leaves, or closes its end, the answer is dropped, and so ends.
use super::call::Call;
use super::jobs::Job;
use super::pipe::{self, Format, Outlet};
use super::{Door, Properties};
use crate::answer::{Answer, Order, begin};
use crate::app::Phase;
use crate::errors::Failure;
use crate::order::Asker;
use hyprstream_protocol::{Event, FinishReason, JobKind, Timings, Usage};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use zbus::Variant;

/// An answer that has begun.
pub struct Begun {
    /// Its job.
    pub job: Arc<Job>,
    answer: Answer,
    first: Option<Result<Event, Failure>>,
    tokens_max: Option<u32>,
}

/// How an answer ended.
pub struct Heard {
    /// The text.
    pub text: String,
    /// What it used, or what went wrong.
    pub end: Result<Properties, Failure>,
}

/// Who calls, with a new id.
pub fn asker(call: &Call) -> Asker {
    Asker {
        uid: call.client.uid,
        id: crate::jobs::new_id(),
    }
}

/// Begins an answer. What fails at once is the call's error: the first event is waited for, which comes soon.
pub async fn start(call: &Call, order: Order) -> Result<Begun, Failure> {
    let (kind, model) = (kind_of(order.kind), order.entry.name.clone());
    let tokens_max = order.input.is_some().then(|| {
        let default = call.door.app.config().generation.sampling.max_tokens;
        order.sampling.max_tokens.or(default)
    });
    let mut answer = begin(&call.door.app, order)?;
    let first = match answer.next().await {
        Some(Err(failure)) => return Err(failure),
        first => first,
    };
    let job = call
        .door
        .enter_job(&call.client, answer.id(), kind, &model)
        .await?;
    Ok(Begun {
        job,
        answer,
        first,
        tokens_max: tokens_max.flatten(),
    })
}

fn kind_of(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Generate => "generate",
        JobKind::Chat => "chat",
        JobKind::Score => "score",
        JobKind::Load => "load",
        JobKind::Install => "install",
    }
}

/// A pipe for an answer, and its other end.
pub fn outlet(door: &Door, format: Format) -> Result<(Outlet, OwnedFd), Failure> {
    pipe::open(format, door.app.config().limits.stall)
}

impl Begun {
    /// Carries the answer to its end, with nothing of it kept.
    pub async fn carry(self, door: &Arc<Door>, outlet: Option<Outlet>) {
        self.hear(door, outlet, |_| ()).await;
    }

    /// Carries the answer to its end. `ended` sees it before anybody is told, so that whoever is told finds all done.
    pub async fn hear<R>(
        mut self,
        door: &Arc<Door>,
        mut outlet: Option<Outlet>,
        ended: impl FnOnce(&Heard) -> R,
    ) -> (Heard, R) {
        let mut text = String::new();
        let mut tokens = 0u32;
        let ending = self.answer.ending();
        let end = loop {
            let item = match self.first.take() {
                Some(item) => Some(item),
                None => self.next(outlet.as_ref()).await,
            };
            let event = match item {
                Some(Ok(event)) => event,
                Some(Err(failure)) => break Err(failure),
                None => break Err(Failure::fault("an answer ended without an end")),
            };
            if let Event::Token(token) = &event {
                tokens = tokens.saturating_add(1);
                text.push_str(&token.text);
            }
            door.job_heard(&self.job, &event, self.tokens_max, tokens).await;
            if let Some(outlet) = &mut outlet {
                let written = tokio::select! {
                    written = outlet.put(&event) => written,
                    () = self.job.cancelled() => Err(Failure::cancelled()),
                    () = ending.wait() => Err(Failure::cancelled()),
                    // Where nobody reads, what the answer has to say of it would come too late.
                    () = door.app.reached(Phase::Ending) => Err(Failure::stopping()),
                };
                if let Err(failure) = written {
                    break Err(failure);
                }
            }
            if let Event::Done {
                reason,
                usage,
                timings,
            } = event
            {
                break Ok(result(reason, usage, timings));
            }
        };
        if let (Err(failure), Some(outlet)) = (&end, &outlet) {
            outlet.fail(failure);
        }
        // The job is over for `hyp ps` before its owner hears of it.
        drop(self.answer);
        let heard = Heard { text, end };
        let made = ended(&heard);
        // What a caller does next may depend on both: the end of the stream, and where the job stands.
        door.job_over(&self.job, copy(&heard.end)).await;
        drop(outlet);
        (heard, made)
    }

    async fn next(&mut self, outlet: Option<&Outlet>) -> Option<Result<Event, Failure>> {
        let reader_gone = async {
            match outlet {
                Some(outlet) => outlet.gone().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            item = self.answer.next() => item,
            () = self.job.cancelled() => Some(Err(Failure::cancelled())),
            () = reader_gone => Some(Err(Failure::cancelled())),
        }
    }
}

fn copy(end: &Result<Properties, Failure>) -> Result<Properties, Failure> {
    let properties = end.as_ref().map_err(Clone::clone)?;
    let copied = properties
        .iter()
        .filter_map(|(name, value)| Some((*name, value.try_clone().ok()?)));
    Ok(copied.collect())
}

fn result(reason: FinishReason, usage: Usage, timings: Timings) -> Properties {
    let reason = match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    };
    Properties::from([
        ("finish_reason", Variant::new(reason)),
        ("prompt_tokens", Variant::new(usage.prompt_tokens)),
        ("completion_tokens", Variant::new(usage.completion_tokens)),
        ("cached_tokens", Variant::new(usage.cached_tokens)),
        ("queue_ms", Variant::new(timings.queue_ms)),
        ("prefill_ms", Variant::new(timings.prefill_ms)),
        ("decode_ms", Variant::new(timings.decode_ms)),
    ])
}
