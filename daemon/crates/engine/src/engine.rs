//! The engine's thread and the handle to it. Invariant: a handle never waits for work; it hands over or refuses.
use crate::options::Options;
use crate::queue::Queue;
use crate::runtime::quota_blocks;
use crate::runtime::{Did, Runtime};
use crate::{EngineError, KvBlocks, Model, Request};
use hyprstream_kernels::{KV_BLOCK, Pool, attend_scratch_bytes};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often sinks that were not ready are asked again.
const BLOCKED_POLL: Duration = Duration::from_millis(5);
/// How often a resting engine shows that its loop still turns.
const REST_BEAT: Duration = Duration::from_millis(500);
/// How long clients get to read their last items when the engine stops.
const STOP_FLUSH: Duration = Duration::from_millis(500);

/// A handle to the engine; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    commands: Sender<Command>,
    pool: Arc<Pool>,
}

struct Shared {
    options: Options,
    isa: &'static str,
    threads: usize,
    /// Locked for a moment only, by whoever submits and once a step.
    queue: Mutex<Queue>,
    kv: Mutex<KvBlocks>,
    running: AtomicUsize,
    beats: Arc<AtomicU64>,
    draining: AtomicBool,
    /// Moving average of a request's time, to tell a refused client when to come back.
    request_ms: AtomicU64,
    drafted: AtomicU64,
    accepted: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Command {
    Run(Box<Request>),
    /// Some model was retired: look which are over.
    Unload,
    /// Compute nothing from the next step on, and say so here.
    Pause(Sender<()>),
    /// Compute again.
    Resume,
    /// Show that the loop turns.
    Ping,
    /// Free the caches and buffers of models that nobody uses.
    Shrink,
    Stop,
}

/// What the engine does right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Requests that compute.
    pub running: usize,
    /// Requests that wait.
    pub queued: usize,
    /// How many may wait.
    pub queue_max: usize,
    /// Compute threads.
    pub threads: usize,
    /// Instruction set in use.
    pub isa: &'static str,
    /// Blocks of all KV caches.
    pub kv: KvBlocks,
    /// Turns of the engine's loop and layers of its steps; stands still only while there is nothing to do or the engine
    /// is stuck.
    pub beats: u64,
    /// Tokens that speculation drafted since the start.
    pub drafted: u64,
    /// Those among them that saved a step.
    pub accepted: u64,
}

/// The engine could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the compute threads: {0}")]
pub struct StartError(#[from] io::Error);

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full.
    #[error("{queued} requests wait already (at most {queue_max}); try again in {retry_ms} ms")]
    Busy {
        /// Requests that wait.
        queued: usize,
        /// The limit.
        queue_max: usize,
        /// A guess at when there is room.
        retry_ms: u64,
    },
    /// The daemon stops.
    #[error("the daemon is stopping; try again in a moment")]
    Stopping,
    /// There is nothing to continue.
    #[error("the prompt is empty; give at least one token")]
    EmptyPrompt,
    /// The prompt does not fit, or leaves no room for an answer.
    #[error("the prompt has {prompt} tokens, and the context holds {context}; shorten it, or {}", more_context(*.context, *.trained))]
    ContextExceeded {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that fit, an answer's first one among them.
        context: usize,
        /// Tokens that the model was trained for.
        trained: usize,
    },
    /// The prompt alone is more than its user may have in the KV cache.
    #[error(
        "the prompt has {prompt} tokens, and one user may have {tokens_max} in a model's KV cache ([limits] user_kv_memory); shorten it"
    )]
    UserKv {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that fit, an answer's first one among them.
        tokens_max: usize,
    },
    /// A token id that the model does not have.
    #[error("token {token} is not in the vocabulary; ids go from 0 to {last}")]
    BadToken {
        /// The id.
        token: u32,
        /// The largest one.
        last: u32,
    },
}

fn more_context(context: usize, trained: usize) -> String {
    if trained > context {
        format!("raise [runtime] kv_tokens (the model itself holds {trained})")
    } else {
        "use a model with more".to_owned()
    }
}

impl Engine {
    /// Starts the engine's thread and its compute threads.
    pub fn start(options: Options) -> Result<Engine, StartError> {
        let options = options.clamped();
        let threads = match options.threads {
            0 => std::thread::available_parallelism()?.get(),
            n => n,
        };
        let pool = Arc::new(Pool::new(threads)?);
        let (commands, inbox) = channel();
        let shared = Arc::new(Shared {
            options,
            isa: pool.isa().name(),
            threads,
            queue: Mutex::default(),
            kv: Mutex::default(),
            running: AtomicUsize::new(0),
            beats: Arc::default(),
            draining: AtomicBool::new(false),
            request_ms: AtomicU64::new(1000),
            drafted: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            thread: Mutex::new(None),
        });
        let worker = Worker {
            shared: shared.clone(),
            inbox,
            pool: pool.clone(),
            runtimes: Vec::new(),
            blocked: false,
            paused: false,
        };
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || worker.run())?;
        *shared.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(Engine {
            shared,
            commands,
            pool,
        })
    }

    /// The compute threads, for loads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Bytes that the compute threads keep from the first prompt on, for whatever models are loaded.
    pub fn thread_bytes(&self) -> u64 {
        attend_scratch_bytes(self.pool.isa(), self.pool.threads()) as u64
    }

    /// What it was started with, with every number in its range.
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// Hands a request over. Never blocks.
    pub fn submit(&self, request: Request) -> Result<(), SubmitError> {
        let shared = &self.shared;
        if shared.draining.load(Ordering::Acquire) {
            return Err(SubmitError::Stopping);
        }
        self.check(&request)?;
        let queue_max = shared.options.queue_max;
        // Those that will run at once only pass through the queue.
        let running = shared.running.load(Ordering::Acquire);
        let limit = queue_max + shared.options.sequences_max.saturating_sub(running);
        if let Err(queued) = shared.queue().arrive(request.uid, limit) {
            return Err(SubmitError::Busy {
                queued,
                queue_max,
                retry_ms: self.retry_ms(queued),
            });
        }
        self.commands
            .send(Command::Run(Box::new(request)))
            .map_err(|_| SubmitError::Stopping)
    }

    fn check(&self, request: &Request) -> Result<(), SubmitError> {
        let config = request.model.config();
        let (prompt, context) = (request.tokens.len(), self.shared.options.context_of(config));
        if prompt == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        if prompt + usize::from(request.sampling.max_tokens > 0) > context {
            let trained = config.context;
            return Err(SubmitError::ContextExceeded {
                prompt,
                context,
                trained,
            });
        }
        let tokens_max = quota_blocks(request.kv_tokens_max).saturating_mul(KV_BLOCK);
        if prompt + usize::from(request.sampling.max_tokens > 0) > tokens_max {
            return Err(SubmitError::UserKv { prompt, tokens_max });
        }
        match request
            .tokens
            .iter()
            .find(|&&token| token as usize >= config.vocab)
        {
            Some(&token) => Err(SubmitError::BadToken {
                token,
                last: config.vocab.saturating_sub(1) as u32,
            }),
            None => Ok(()),
        }
    }

    fn retry_ms(&self, queued: usize) -> u64 {
        let rounds = queued.div_ceil(self.shared.options.sequences_max) as u64;
        self.shared
            .request_ms
            .load(Ordering::Relaxed)
            .saturating_mul(rounds)
            .clamp(100, 30_000)
    }

    /// Frees a model's cache and buffers once its requests are through, those among them that are still on their way.
    pub fn unload(&self, model: &Arc<Model>) {
        model.retire();
        // A send fails only when the engine has stopped, and then everything is free.
        let _ = self.commands.send(Command::Unload);
    }

    /// Has the engine's thread turn once, which shows in [`Stats::beats`]: an idle engine sleeps until it is asked.
    pub fn ping(&self) {
        // A send fails only when the engine has stopped, and then nobody is to be told that it lives.
        let _ = self.commands.send(Command::Ping);
    }

    /// Frees the caches and buffers of models that have no requests, with what they kept of earlier ones. The next request
    /// makes them again.
    pub fn shrink(&self) {
        let _ = self.commands.send(Command::Shrink);
    }

    /// What it does right now.
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        Stats {
            running: shared.running.load(Ordering::Relaxed),
            queued: shared.queue().len(),
            queue_max: shared.options.queue_max,
            threads: shared.threads,
            isa: shared.isa,
            kv: *shared.kv.lock().unwrap_or_else(PoisonError::into_inner),
            beats: shared.beats.load(Ordering::Relaxed),
            drafted: shared.drafted.load(Ordering::Relaxed),
            accepted: shared.accepted.load(Ordering::Relaxed),
        }
    }

    /// Refuses new requests from now on; those at work go on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Stops computing between two steps; requests keep their places. False: it did not come so far within `wait`, and
    /// will a little later. Blocks until then.
    pub fn pause(&self, wait: Duration) -> bool {
        let (resting, heard) = channel();
        let sent = self.commands.send(Command::Pause(resting));
        sent.is_ok() && heard.recv_timeout(wait).is_ok()
    }

    /// Computes again.
    pub fn resume(&self) {
        // A send fails only when the engine has stopped, and then there is nothing to resume.
        let _ = self.commands.send(Command::Resume);
    }

    /// Whether nothing waits or runs.
    pub fn is_idle(&self) -> bool {
        let stats = self.stats();
        stats.running == 0 && stats.queued == 0
    }

    /// Ends what still waits or runs with [`EngineError::Stopping`] and waits for the thread to end.
    pub fn stop(&self) {
        self.drain();
        let _ = self.commands.send(Command::Stop);
        let thread = self
            .shared
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // Its panics were caught and logged as faults; there is nothing left to report here.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Worker {
    shared: Arc<Shared>,
    inbox: Receiver<Command>,
    pool: Arc<Pool>,
    runtimes: Vec<Resident>,
    /// The last turn computed nothing, though there are sequences.
    blocked: bool,
    /// It rests, whatever there is to compute.
    paused: bool,
}

struct Resident {
    runtime: Runtime,
    /// Its step panicked: takes nothing new and computes nothing, only its last items still go out.
    broken: bool,
}

impl Resident {
    /// Nothing is left to do here, and nothing more will come.
    fn is_over(&self) -> bool {
        (self.broken || self.runtime.model().is_retired()) && self.runtime.is_empty()
    }
}

impl Worker {
    fn run(mut self) {
        while self.take_commands() {
            if !self.paused {
                self.turn();
            }
            self.publish();
        }
        self.stop();
    }

    /// Takes what has arrived; waits for it if there is nothing to compute. False when it is time to stop.
    fn take_commands(&mut self) -> bool {
        let idle = self.runtimes.iter().all(|r| r.runtime.is_empty());
        let first = if idle {
            match self.idle() {
                Ok(command) => Some(command),
                Err(_) => return false,
            }
        } else if self.blocked || self.paused {
            let pause = if self.paused { REST_BEAT } else { BLOCKED_POLL };
            match self.inbox.recv_timeout(pause) {
                Ok(command) => Some(command),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        } else {
            None
        };
        if first.is_some_and(|command| !self.obey(command)) {
            return false;
        }
        while let Ok(command) = self.inbox.try_recv() {
            if !self.obey(command) {
                return false;
            }
        }
        true
    }

    /// Waits for a command, after what else idle time is good for.
    fn idle(&mut self) -> Result<Command, RecvError> {
        loop {
            match self.inbox.try_recv() {
                Ok(command) => return Ok(command),
                Err(_) if !self.paused && self.runtimes.iter_mut().any(|r| r.runtime.make_ready()) => (),
                Err(_) => return self.inbox.recv(),
            }
        }
    }

    fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Run(request) => {
                let uid = request.uid;
                self.accept(*request);
                self.shared.queue().arrived(uid);
                self.publish();
            }
            Command::Unload => {
                self.runtimes.retain(|r| !r.is_over());
                self.publish();
            }
            Command::Pause(resting) => {
                self.paused = true;
                // Whoever asked may have given up waiting.
                let _ = resting.send(());
            }
            Command::Resume => self.paused = false,
            Command::Ping => self.publish(),
            Command::Shrink => {
                self.runtimes.retain(|r| !r.runtime.is_empty());
                self.publish();
                hyprstream_kernels::give_back_freed();
            }
            Command::Stop => return false,
        }
        true
    }

    fn accept(&mut self, mut request: Request) {
        let found = self
            .runtimes
            .iter_mut()
            .find(|r| !r.broken && Arc::ptr_eq(r.runtime.model(), &request.model));
        if let Some(resident) = found {
            return resident.runtime.accept(request);
        }
        match Runtime::new(
            request.model.clone(),
            self.pool.clone(),
            &self.shared.options,
            &self.shared.beats,
        ) {
            Some(mut runtime) => {
                runtime.accept(request);
                self.runtimes.push(Resident {
                    runtime,

                    broken: false,
                });
            }
            None => {
                let error = EngineError::OutOfMemory {
                    model: request.model.name().to_owned(),
                };
                request.sink.send(Err(error));
            }
        }
    }

    fn turn(&mut self) {
        let now = Instant::now();
        let request_ms = &self.shared.request_ms;
        let mut ended = |sequence: &crate::sequence::Sequence| {
            let mean = request_ms.load(Ordering::Relaxed);
            request_ms.store((mean * 7 + sequence.age_ms()) / 8, Ordering::Relaxed);
        };
        let (drafted, accepted) = (&self.shared.drafted, &self.shared.accepted);
        self.blocked = true;
        self.runtimes.retain_mut(|resident| {
            let did = resident.runtime.step(now, &mut ended);
            self.blocked &= did != Did::Work;
            resident.broken |= did == Did::Broke;
            let tally = resident.runtime.take_tally();
            drafted.fetch_add(u64::from(tally.drafted), Ordering::Relaxed);
            accepted.fetch_add(u64::from(tally.accepted), Ordering::Relaxed);
            !resident.is_over()
        });
    }

    fn publish(&mut self) {
        let running = self.runtimes.iter().map(|r| r.runtime.running()).sum();
        let waiting = self.runtimes.iter().flat_map(|r| r.runtime.waiting());
        self.shared.queue().set_waiting(waiting);
        self.shared.running.store(running, Ordering::Release);
        let mut all = KvBlocks::default();
        for resident in &mut self.runtimes {
            let kv = resident.runtime.kv();
            all.total += kv.total;
            all.in_use += kv.in_use;
            all.kept += kv.kept;
        }
        *self.shared.kv.lock().unwrap_or_else(PoisonError::into_inner) = all;
        self.shared.beats.fetch_add(1, Ordering::Relaxed);
    }

    fn stop(mut self) {
        self.shared.draining.store(true, Ordering::Release);
        while let Ok(command) = self.inbox.try_recv() {
            if let Command::Run(mut request) = command
                && request.sink.ready()
            {
                request.sink.send(Err(EngineError::Stopping));
            }
        }
        for resident in &mut self.runtimes {
            resident.runtime.fail_all(&EngineError::Stopping);
        }
        let deadline = Instant::now() + STOP_FLUSH;
        while self.runtimes.iter().any(|r| !r.runtime.is_empty()) && Instant::now() < deadline {
            for resident in &mut self.runtimes {
                resident.runtime.step(Instant::now(), &mut |_| {});
            }
            std::thread::sleep(BLOCKED_POLL);
        }
        self.shared.running.store(0, Ordering::Release);
        *self.shared.queue() = Queue::default();
        *self.shared.kv.lock().unwrap_or_else(PoisonError::into_inner) = KvBlocks::default();
    }
}
