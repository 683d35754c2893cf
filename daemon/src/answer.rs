//! One request from the model's load to the last event; what every door answers from. Invariant: an answer yields
//! exactly one last item, `done` or an error, and dropping it ends the request.
use crate::app::{App, Phase};
use crate::catalog::Entry;
use crate::config::MemoryMax;
use crate::errors::Failure;
use crate::jobs::{AtWork, Ending, ROOT, Running};
use crate::models::Lease;
use crate::prompt::{Input, tokens_of};
use crate::sink::{Item, sink};
use hyprstream_engine::{Model, Progress, Request, SamplingParams};
use hyprstream_protocol::{
    Event, FinishReason, JobKind, JobState, LoadStage, Priority, Sampling, Timings, Usage,
};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// Events that may wait for the client before its request rests.
const EVENTS_MAX: usize = 256;
/// A request that has not started after so long tells its client how many stand before it.
const QUEUE_NEWS: Duration = Duration::from_millis(50);

/// What to do.
pub struct Order {
    /// The request's id.
    pub id: String,
    /// Whose it is.
    pub uid: u32,
    /// What it is, for `hyp ps`.
    pub kind: JobKind,
    /// The model.
    pub entry: Arc<Entry>,
    /// The prompt; `None` loads the model and does nothing else.
    pub input: Option<Input>,
    /// How to answer.
    pub sampling: Sampling,
    /// Report the prompt's tokens too.
    pub echo: bool,
    /// Before which others it runs.
    pub priority: Priority,
}

/// The events of one request.
pub struct Answer {
    events: mpsc::Receiver<Item>,
    job: Running,
    started: bool,
    over: bool,
}

/// Starts to work. What is wrong with the request itself is told at once.
pub fn begin(app: &Arc<App>, order: Order) -> Result<Answer, Failure> {
    app.admit()?;
    let config = app.config();
    let params = SamplingParams::resolve(&order.sampling, &config.generation.sampling)?;
    let job = app.jobs.enter_within(
        &config.limits,
        &order.id,
        order.kind,
        &order.entry.name,
        order.uid,
    )?;
    tracing::info!(
        request_id = job.id(),
        model = %order.entry.name,
        uid = order.uid,
        kind = ?order.kind,
        "request: {:?} of {} by uid {}",
        order.kind,
        order.entry.name,
        order.uid
    );
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let work = Work {
        app: Arc::clone(app),
        id: job.id().to_owned(),
        uid: order.uid,
        entry: order.entry,
        progress: Arc::clone(job.progress()),
        at_work: Some(job.at_work()),
        params,
        echo: order.echo,
        priority: order.priority,
        sender,
    };
    let ending = job.ending();
    tokio::spawn(async move {
        let sender = work.sender.clone();
        let app = Arc::clone(&work.app);
        let result = tokio::select! {
            result = work.run(order.input) => result,
            () = ending.wait() => Err(Failure::cancelled()),
            () = app.reached(Phase::Ending) => Err(Failure::stopping()),
            // Nobody listens: nobody is told.
            () = sender.closed() => Ok(()),
        };
        if let Err(failure) = result {
            let _ = sender.send(Err(failure)).await;
        }
    });
    Ok(Answer {
        events,
        job,
        started: false,
        over: false,
    })
}

impl Answer {
    /// The request's id.
    pub fn id(&self) -> &str {
        self.job.id()
    }

    /// A way to wait for `hyp cancel`, for whoever is too busy to ask for the next event.
    pub fn ending(&self) -> Ending {
        self.job.ending()
    }

    /// The next event, `None` after the last one.
    pub async fn next(&mut self) -> Option<Result<Event, Failure>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// The same for streams.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Event, Failure>>> {
        loop {
            if self.over {
                return Poll::Ready(None);
            }
            let item = match self.events.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(item) => item.unwrap_or_else(|| Err(Failure::fault("an answer broke off"))),
            };
            match &item {
                // News of the queue that was overtaken by the start.
                Ok(Event::Queued { .. }) if self.started => continue,
                Ok(Event::Started { .. }) => self.started = true,
                Ok(Event::Done { usage, timings, .. }) => {
                    self.over = true;
                    tracing::info!(
                        request_id = self.job.id(),
                        model = self.job.model(),
                        uid = self.job.uid(),
                        prompt_tokens = usage.prompt_tokens,
                        completion_tokens = usage.completion_tokens,
                        cached_tokens = usage.cached_tokens,
                        queue_ms = timings.queue_ms,
                        prefill_ms = timings.prefill_ms,
                        decode_ms = timings.decode_ms,
                        "done: {}, {} + {} tokens in {:.0} ms",
                        self.job.model(),
                        usage.prompt_tokens,
                        usage.completion_tokens,
                        timings.queue_ms + timings.prefill_ms + timings.decode_ms
                    );
                }
                Err(failure) => {
                    self.over = true;
                    tracing::info!(
                        request_id = self.job.id(),
                        model = self.job.model(),
                        uid = self.job.uid(),
                        code = failure.0.code.as_str(),
                        "failed: {}, {}",
                        self.job.model(),
                        failure.0.code.as_str()
                    );
                }
                Ok(_) => {}
            }
            return Poll::Ready(Some(item));
        }
    }

    /// Waits until the request runs, over loads and queues; what comes after is still to be read.
    pub async fn started(&mut self) -> Result<(), Failure> {
        while !self.started {
            match self.next().await {
                Some(Ok(_)) => {}
                Some(Err(failure)) => return Err(failure),
                None => return Err(Failure::fault("an answer ended before it began")),
            }
        }
        Ok(())
    }
}

struct Work {
    app: Arc<App>,
    id: String,
    uid: u32,
    entry: Arc<Entry>,
    progress: Arc<Progress>,
    /// Goes to the engine with the request.
    at_work: Option<AtWork>,
    params: SamplingParams,
    echo: bool,
    priority: Priority,
    sender: mpsc::Sender<Item>,
}

impl Work {
    async fn run(mut self, input: Option<Input>) -> Result<(), Failure> {
        let lease = self.lease().await?;
        let Some(input) = input else {
            let (usage, timings) = (Usage::default(), Timings::default());
            let done = Event::Done {
                reason: FinishReason::Stop,
                usage,
                timings,
            };
            let _ = self.sender.send(Ok(done)).await;
            return Ok(());
        };
        let context = self.app.engine.options().context_of(lease.model().config());
        let tokens = tokens_of(&lease, input, context).await?;
        self.submit(lease, tokens).await?;
        tokio::time::sleep(QUEUE_NEWS).await;
        let unheard = self.sender.capacity() > EVENTS_MAX / 2;
        if unheard && self.progress.state() == JobState::Queued {
            let ahead = self
                .app
                .engine
                .stats()
                .queued
                .saturating_sub(1)
                .try_into()
                .unwrap_or(u32::MAX);
            let _ = self.sender.try_send(Ok(Event::Queued { ahead }));
        }
        Ok(())
    }

    async fn lease(&self) -> Result<Lease, Failure> {
        let report = |stage: LoadStage, progress: Option<f32>| {
            if stage != LoadStage::Ready {
                let model = self.entry.name.clone();
                // A client that does not read misses news of the load, nothing more.
                let _ = self.sender.try_send(Ok(Event::Loading {
                    model,
                    stage,
                    progress,
                }));
            }
        };
        Ok(self.app.models.acquire(&self.entry, report).await?)
    }

    async fn submit(&mut self, lease: Lease, tokens: Vec<u32>) -> Result<(), Failure> {
        let model = Arc::clone(lease.model());
        if let Some(at_work) = &self.at_work {
            at_work.submit(&self.app.config().limits, tokens.len())?;
        }
        let sink = sink(&self.sender, lease, self.at_work.take()).await?;
        let kv_tokens_max = kv_tokens_max(&self.app, self.uid, &model);
        let request = Request {
            id: self.id.clone(),
            uid: self.uid,
            priority: self.priority,
            model,
            kv_tokens_max,
            tokens,
            sampling: self.params.clone(),
            echo: self.echo,
            progress: Arc::clone(&self.progress),
            sink: Box::new(sink),
        };
        Ok(self.app.engine.submit(request)?)
    }
}

/// What a user may have of a model's KV cache; `None` for all of it.
fn kv_tokens_max(app: &App, uid: u32, model: &Model) -> Option<usize> {
    let options = app.engine.options();
    match app.config().limits.user_kv_memory {
        _ if uid == ROOT => None,
        MemoryMax::Percent(100) => None,
        MemoryMax::Percent(percent) => Some(options.kv_tokens.saturating_mul(usize::from(percent)) / 100),
        MemoryMax::Bytes(bytes) => Some(options.kv_tokens_in(model.config(), bytes)),
    }
}
