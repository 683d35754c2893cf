//! The engine's thread under load: what a request gets must not depend on who else runs, waits, leaves or stalls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "scheduling/reuse.rs"]
mod reuse;
#[path = "scheduling/turns.rs"]
mod turns;

use hyprstream_engine::{
    Engine, EngineError, LoadOptions, Model, Options, Progress, Request, SamplingParams, Sink, SubmitError,
};
use hyprstream_kernels::{KvFormat, Pool};
use hyprstream_protocol::{Event, FinishReason, Priority, Sampling};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);

fn model() -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/golden/archs/qwen3/hf");
    Arc::new(
        Model::load(
            "tiny",
            &path,
            &LoadOptions::new(&Pool::new(1).unwrap()),
            &mut |_, _| {},
        )
        .unwrap(),
    )
}

#[derive(Default)]
struct Inbox {
    items: Mutex<Vec<Result<Event, EngineError>>>,
    arrived: Condvar,
    closed: AtomicBool,
    full: AtomicBool,
    /// The engine's thread waits in the token that it sends.
    held: AtomicBool,
    last_at: Mutex<Option<Instant>>,
}

struct Tap(Arc<Inbox>);

impl Sink for Tap {
    fn ready(&self) -> bool {
        !self.0.full.load(Ordering::Relaxed)
    }
    fn closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }
    fn send(&mut self, item: Result<Event, EngineError>) {
        *self.0.last_at.lock().unwrap() = Some(Instant::now());
        let token = matches!(item, Ok(Event::Token(_)));
        self.0.items.lock().unwrap().push(item);
        self.0.arrived.notify_all();
        while token && self.0.held.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Inbox {
    /// Waits for the last item and returns all.
    fn wait(&self) -> Vec<Result<Event, EngineError>> {
        let items = self.items.lock().unwrap();
        let last = |items: &mut Vec<_>| !matches!(items.last(), Some(Err(_) | Ok(Event::Done { .. })));
        let (items, timeout) = self.arrived.wait_timeout_while(items, DEADLINE, last).unwrap();
        assert!(!timeout.timed_out(), "no end after {DEADLINE:?}: {items:?}");
        items.clone()
    }

    fn error(&self) -> EngineError {
        self.wait().pop().unwrap().unwrap_err()
    }

    fn tokens(&self) -> Vec<u32> {
        let items = self.wait();
        assert!(matches!(items.last(), Some(Ok(Event::Done { .. }))), "{items:?}");
        items
            .iter()
            .filter_map(|item| match item {
                Ok(Event::Token(token)) => token.token,
                _ => None,
            })
            .collect()
    }

    fn release(&self) {
        self.held.store(false, Ordering::Relaxed);
    }

    fn first_token(&self) {
        let started = Instant::now();
        while !self
            .items
            .lock()
            .unwrap()
            .iter()
            .any(|item| matches!(item, Ok(Event::Token(_))))
        {
            assert!(started.elapsed() < DEADLINE);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

struct Asked {
    inbox: Arc<Inbox>,
    progress: Arc<Progress>,
}

fn ask_with(
    engine: &Engine,
    model: &Arc<Model>,
    tokens: &[u32],
    sampling: Sampling,
    echo: bool,
) -> Result<Asked, SubmitError> {
    let (mut request, asked) = request(model, tokens, &sampling);
    request.echo = echo;
    engine.submit(request)?;
    Ok(asked)
}

fn request(model: &Arc<Model>, tokens: &[u32], sampling: &Sampling) -> (Request, Asked) {
    let greedy = Sampling {
        temperature: Some(0.0),
        ..Sampling::default()
    };
    let (inbox, progress) = (Arc::new(Inbox::default()), Arc::new(Progress::new()));
    let request = Request {
        id: "test".into(),
        uid: 0,
        priority: Priority::default(),
        model: model.clone(),
        kv_tokens_max: None,
        tokens: tokens.to_vec(),
        sampling: SamplingParams::resolve(sampling, &greedy).unwrap(),
        echo: false,
        progress: progress.clone(),
        sink: Box::new(Tap(inbox.clone())),
    };
    (request, Asked { inbox, progress })
}

/// A request of this user and priority.
fn ask_as(
    engine: &Engine,
    model: &Arc<Model>,
    (uid, priority): (u32, Priority),
    tokens: &[u32],
    max_tokens: u32,
) -> Result<Asked, SubmitError> {
    let sampling = Sampling {
        max_tokens: Some(max_tokens),
        ..Sampling::default()
    };
    let (mut request, asked) = request(model, tokens, &sampling);
    (request.uid, request.priority) = (uid, priority);
    engine.submit(request)?;
    Ok(asked)
}

fn ask(engine: &Engine, model: &Arc<Model>, tokens: &[u32], max_tokens: u32) -> Result<Asked, SubmitError> {
    ask_with(
        engine,
        model,
        tokens,
        Sampling {
            max_tokens: Some(max_tokens),
            ..Sampling::default()
        },
        false,
    )
}

/// Asks, and holds the engine within the first token, however late this thread runs again: what comes now comes while this
/// one runs.
fn ask_held(engine: &Engine, ask: impl FnOnce() -> Asked) -> Asked {
    assert!(engine.pause(DEADLINE));
    let asked = ask();
    asked.inbox.held.store(true, Ordering::Relaxed);
    engine.resume();
    asked.inbox.first_token();
    asked
}

fn options() -> Options {
    Options {
        threads: 2,
        kv_format: KvFormat::F32,
        kv_tokens: 1024,
        ..Options::default()
    }
}

fn idle(engine: &Engine) {
    let started = Instant::now();
    while !engine.is_idle() {
        assert!(started.elapsed() < DEADLINE, "{:?}", engine.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A prompt that differs by `n`, of tokens that every test vocabulary has.
fn prompt(n: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| 3 + (n * 31 + i * 7) % 90).collect()
}

#[test]
fn neighbours_do_not_change_an_answer() {
    let model = model();
    let engine = Engine::start(options()).unwrap();
    let prompts: Vec<_> = (0..6).map(|n| prompt(n, 1 + n * 5)).collect();
    let alone: Vec<_> = prompts
        .iter()
        .map(|p| ask(&engine, &model, p, 20).unwrap().inbox.tokens())
        .collect();
    let together: Vec<_> = prompts
        .iter()
        .map(|p| ask(&engine, &model, p, 20).unwrap())
        .collect();
    for (asked, alone) in together.iter().zip(&alone) {
        assert_eq!(&asked.inbox.tokens(), alone);
    }
    engine.stop();
}

#[test]
fn a_resting_engine_computes_nothing_and_then_goes_on() {
    let model = model();
    let engine = Engine::start(options()).unwrap();
    let want = ask(&engine, &model, &prompt(1, 9), 800).unwrap().inbox.tokens();
    let running = ask(&engine, &model, &prompt(1, 9), 800).unwrap();
    running.inbox.first_token();
    assert!(engine.pause(DEADLINE));
    let before = running.progress.completion_tokens();
    assert!(before < 800, "it was over before it could rest");
    // One that comes meanwhile waits; the loop shows that it lives.
    let waiting = ask(&engine, &model, &prompt(2, 9), 3).unwrap();
    let (beats, started) = (engine.stats().beats, Instant::now());
    while engine.stats().beats < beats + 2 {
        assert!(started.elapsed() < DEADLINE, "no sign of life");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(running.progress.completion_tokens(), before);
    assert!(waiting.inbox.items.lock().unwrap().is_empty());
    engine.resume();
    assert_eq!(running.inbox.tokens(), want);
    assert_eq!(waiting.inbox.tokens().len(), 3);
    engine.stop();
}

#[test]
fn an_evicted_sequence_goes_on_as_if_nothing_had_been() {
    let model = model();
    let roomy = Engine::start(options()).unwrap();
    // Room for one sequence and a half: one of the two must give way.
    let narrow = Engine::start(Options {
        kv_tokens: 96,
        ..options()
    })
    .unwrap();
    let prompts = [prompt(1, 20), prompt(2, 20)];
    let want: Vec<_> = prompts
        .iter()
        .map(|p| ask(&roomy, &model, p, 40).unwrap().inbox.tokens())
        .collect();
    let got: Vec<_> = prompts
        .iter()
        .map(|p| ask(&narrow, &model, p, 40).unwrap())
        .collect();
    for (asked, want) in got.iter().zip(&want) {
        assert_eq!(&asked.inbox.tokens(), want);
    }
    idle(&narrow);
}

#[test]
fn prompt_logprobs_are_the_same_in_chunks() {
    let model = model();
    let wanted = Sampling {
        max_tokens: Some(0),
        logprobs: Some(2),
        ..Sampling::default()
    };
    let tokens = prompt(4, 50);
    let run = |prefill_tokens_max| {
        let engine = Engine::start(Options {
            prefill_tokens_max,
            sequences_max: 1,
            ..options()
        })
        .unwrap();
        let events = ask_with(&engine, &model, &tokens, wanted.clone(), true)
            .unwrap()
            .inbox
            .wait();
        let prompt = events.into_iter().filter_map(|item| match item {
            Ok(Event::Prompt(token)) => Some(token),
            _ => None,
        });
        prompt.collect::<Vec<_>>()
    };
    let whole = run(512);
    assert_eq!(whole.iter().map(|t| t.token.unwrap()).collect::<Vec<_>>(), tokens);
    assert!(
        whole[0].logprob.is_none()
            && whole[1..]
                .iter()
                .all(|t| t.logprob.unwrap() < 0.0 && t.top.len() == 2)
    );
    for chunk in [1, 7, 32] {
        for (a, b) in whole.iter().zip(run(chunk)) {
            assert!(
                (a.logprob.unwrap_or(0.0) - b.logprob.unwrap_or(0.0)).abs() < 1e-4,
                "{a:?} {b:?}"
            );
        }
    }
}

#[test]
fn echo_works_with_a_single_token_and_without_logprobs() {
    let model = model();
    let engine = Engine::start(options()).unwrap();
    for (len, logprobs) in [(1, Some(0)), (1, None), (3, None), (3, Some(1))] {
        for max_tokens in [0, 2] {
            let wanted = Sampling {
                max_tokens: Some(max_tokens),
                logprobs,
                ..Sampling::default()
            };
            let events = ask_with(&engine, &model, &prompt(1, len), wanted, true)
                .unwrap()
                .inbox
                .wait();
            let echoed = events
                .iter()
                .filter(|item| matches!(item, Ok(Event::Prompt(_))))
                .count();
            assert_eq!(echoed, len as usize);
            let end = events.last();
            assert!(
                matches!(
                    end,
                    Some(Ok(Event::Done {
                        reason: FinishReason::Length,
                        ..
                    }))
                ),
                "{end:?}"
            );
        }
    }
}

#[test]
fn a_client_that_goes_and_one_that_cancels_free_the_engine() {
    let model = model();
    let engine = Engine::start(options()).unwrap();
    let gone = ask(&engine, &model, &prompt(1, 4), 900).unwrap();
    let cancelled = ask(&engine, &model, &prompt(2, 4), 900).unwrap();
    gone.inbox.first_token();
    gone.inbox.closed.store(true, Ordering::Relaxed);
    cancelled.progress.cancel();
    assert_eq!(cancelled.inbox.error(), EngineError::Cancelled);
    idle(&engine);
}

#[test]
fn a_client_that_does_not_read_is_ended_and_delays_nobody() {
    let model = model();
    let engine = Engine::start(Options {
        stall: Duration::from_millis(200),
        ..options()
    })
    .unwrap();
    let slow = ask(&engine, &model, &prompt(1, 4), 900).unwrap();
    slow.inbox.first_token();
    slow.inbox.full.store(true, Ordering::Relaxed);
    assert_eq!(
        ask(&engine, &model, &prompt(2, 4), 5)
            .unwrap()
            .inbox
            .tokens()
            .len(),
        5
    );
    idle(&engine);
    assert!(!matches!(
        slow.inbox.items.lock().unwrap().last(),
        Some(Ok(Event::Done { .. }))
    ));
}

#[test]
fn a_full_queue_refuses_with_a_hint() {
    let model = model();
    let engine = Engine::start(Options {
        queue_max: 1,
        sequences_max: 1,
        ..options()
    })
    .unwrap();
    let first = ask(&engine, &model, &prompt(1, 4), 900).unwrap();
    first.inbox.first_token();
    let started = Instant::now();
    while engine.stats().running == 0 {
        assert!(started.elapsed() < DEADLINE);
    }
    let second = ask(&engine, &model, &prompt(2, 4), 3).unwrap();
    match ask(&engine, &model, &prompt(3, 4), 3).err() {
        Some(SubmitError::Busy {
            queued: 1,
            queue_max: 1,
            retry_ms,
        }) => assert!(retry_ms >= 100),
        other => panic!("{other:?}"),
    }
    first.progress.cancel();
    assert_eq!(second.inbox.tokens().len(), 3);
}

#[test]
fn stopping_ends_the_rest_with_a_clear_error() {
    let model = model();
    let engine = Engine::start(options()).unwrap();
    let running = ask(&engine, &model, &prompt(1, 4), 900).unwrap();
    running.inbox.first_token();
    engine.drain();
    assert_eq!(
        ask(&engine, &model, &prompt(2, 4), 5).err(),
        Some(SubmitError::Stopping)
    );
    engine.stop();
    assert_eq!(running.inbox.error(), EngineError::Stopping);
}

#[test]
fn what_cannot_run_is_refused_with_the_numbers() {
    let model = model();
    let engine = Engine::start(Options {
        kv_tokens: 64,
        ..options()
    })
    .unwrap();
    let refused = |tokens: &[u32]| ask(&engine, &model, tokens, 1).err().unwrap();
    assert_eq!(refused(&[]), SubmitError::EmptyPrompt);
    assert_eq!(
        refused(&prompt(1, 64)),
        SubmitError::ContextExceeded {
            prompt: 64,
            context: 64,
            trained: model.config().context
        }
    );
    let last = model.config().vocab as u32 - 1;
    assert_eq!(
        refused(&[1, u32::MAX]),
        SubmitError::BadToken {
            token: u32::MAX,
            last
        }
    );
    let full = ask(&engine, &model, &prompt(1, 60), 50).unwrap().inbox;
    assert_eq!(full.tokens().len(), 4, "the answer ends where the context does");
    let end = full.wait().pop();
    let reason = FinishReason::Length;
    assert!(
        matches!(&end, Some(Ok(Event::Done { reason: told, .. })) if *told == reason),
        "{end:?}"
    );
}

#[test]
fn an_unloaded_model_can_come_back() {
    let model = model();
    let engine = Engine::start(options()).unwrap();
    let first = ask(&engine, &model, &prompt(1, 4), 5).unwrap().inbox.tokens();
    engine.unload(&model);
    assert_eq!(
        ask(&engine, &model, &prompt(1, 4), 5).unwrap().inbox.tokens(),
        first
    );
}

#[test]
fn a_request_that_overlaps_an_unload_leaves_no_model_behind() {
    let model = model();
    let engine = Engine::start(options()).unwrap();
    let early = ask(&engine, &model, &prompt(1, 4), 50).unwrap();
    engine.unload(&model);
    let late = ask(&engine, &model, &prompt(1, 4), 50).unwrap();
    assert_eq!(early.inbox.tokens(), late.inbox.tokens());
    let watch = Arc::downgrade(&model);
    drop(model);
    let started = Instant::now();
    while watch.strong_count() > 0 {
        assert!(started.elapsed() < DEADLINE, "the engine keeps the model");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one() {
    let model = model();
    let engine = Engine::start(Options {
        prefill_tokens_max: 8,
        ..options()
    })
    .unwrap();
    let context = engine.options().context_of(model.config()) as u32;
    let long = ask(&engine, &model, &prompt(1, context - 8), 1).unwrap();
    let short = ask(&engine, &model, &prompt(2, 6), 1).unwrap();
    assert_eq!(short.inbox.tokens().len(), 1);
    assert_eq!(long.inbox.tokens().len(), 1);
    let end = |asked: &Asked| asked.inbox.last_at.lock().unwrap().unwrap();
    assert!(end(&short) < end(&long));
}
