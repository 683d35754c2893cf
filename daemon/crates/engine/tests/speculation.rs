//! Speculation changes the time that an answer takes, and nothing else: every test compares whole answers, event for
//! event, with and without it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use hyprstream_engine::forward::{Logits, Runner, Slice};
use hyprstream_engine::speculation::DRAFT_MAX;
use hyprstream_engine::{
    BlockTable, Engine, EngineError, LoadOptions, Model, Options, Progress, Request, SamplingParams, Sink,
};
use hyprstream_kernels::{KvFormat, Pool};
use hyprstream_protocol::{Event, FinishReason, Priority, Sampling, Usage};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(60);

type Item = Result<Event, EngineError>;

/// Takes everything, or with `hesitates` only every other time that it is asked.
struct Outbox {
    items: Sender<Item>,
    hesitates: bool,
    asked: AtomicBool,
}

impl Sink for Outbox {
    fn ready(&self) -> bool {
        !self.hesitates || self.asked.fetch_xor(true, Ordering::Relaxed)
    }
    fn closed(&self) -> bool {
        false
    }
    fn send(&mut self, item: Item) {
        let _ = self.items.send(item);
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/golden")
}

fn open(path: &Path) -> Arc<Model> {
    Arc::new(
        Model::load(
            "golden",
            path,
            &LoadOptions::new(&Pool::new(1).unwrap()),
            &mut |_, _| {},
        )
        .unwrap(),
    )
}

/// The one with a tokenizer and an end token.
fn tiny() -> Arc<Model> {
    open(&golden().join("tiny/tiny-hf"))
}

/// Every model of tests/golden, as a folder and as a file.
fn models() -> Vec<Arc<Model>> {
    let archs = std::fs::read_dir(golden().join("archs")).unwrap();
    let archs = archs.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = archs
        .flat_map(|path| [path.join("hf"), path.join("model.gguf")])
        .collect();
    paths.extend(["tiny/tiny-hf", "tiny/tiny.gguf"].map(|name| golden().join(name)));
    assert!(paths.len() > 10);
    paths.iter().map(|path| open(path)).collect()
}

fn engine() -> Engine {
    Engine::start(options()).unwrap()
}

/// Every guess seems to pay, so that steps are full of right and wrong ones.
fn options() -> Options {
    Options {
        threads: 2,
        kv_format: KvFormat::F32,
        kv_tokens: 1024,
        draft_cost: Some(0.0),
        ..Options::default()
    }
}

struct Asked {
    items: Receiver<Item>,
    progress: Arc<Progress>,
}

fn ask(engine: &Engine, model: &Arc<Model>, tokens: &[u32], sampling: &Sampling, hesitates: bool) -> Asked {
    let (items, inbox) = channel();
    let progress = Arc::new(Progress::new());
    let sampling = SamplingParams::resolve(sampling, &Sampling::default()).unwrap();
    let sink = Outbox {
        items,
        hesitates,
        asked: AtomicBool::new(false),
    };
    engine
        .submit(Request {
            id: "test".into(),
            uid: 0,
            priority: Priority::default(),
            model: model.clone(),
            kv_tokens_max: None,
            tokens: tokens.to_vec(),
            sampling,
            echo: false,
            progress: progress.clone(),
            sink: Box::new(sink),
        })
        .unwrap();
    Asked {
        items: inbox,
        progress,
    }
}

impl Asked {
    /// All events but the last one, why it ended, and what it used.
    fn end(self) -> (Vec<Event>, FinishReason, Usage) {
        let mut events = Vec::new();
        loop {
            match self.items.recv_timeout(DEADLINE).unwrap().unwrap() {
                Event::Done { reason, usage, .. } => return (events, reason, usage),
                event => events.push(event),
            }
        }
    }
}

fn tokens_of(events: &[Event]) -> Vec<u32> {
    let tokens = events.iter().filter_map(|event| match event {
        Event::Token(token) => token.token,
        _ => None,
    });
    tokens.collect()
}

fn until(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The same, token by token.
fn plain(sampling: &Sampling) -> Sampling {
    Sampling {
        speculation: Some(false),
        ..sampling.clone()
    }
}

/// Two engines, of which one is asked without drafts.
struct Pair {
    plain: Engine,
    ahead: Engine,
    drafted: u32,
    accepted: u32,
}

impl Pair {
    fn new() -> Pair {
        Pair {
            plain: engine(),
            ahead: engine(),
            drafted: 0,
            accepted: 0,
        }
    }

    /// The answer, after it was seen to be the same from both.
    fn same(
        &mut self,
        model: &Arc<Model>,
        tokens: &[u32],
        sampling: &Sampling,
    ) -> (Vec<Event>, FinishReason) {
        let (want, reason, alone) = ask(&self.plain, model, tokens, &plain(sampling), false).end();
        let (got, same_reason, ahead) = ask(&self.ahead, model, tokens, sampling, false).end();
        assert_eq!(got, want, "{sampling:?}");
        assert_eq!(same_reason, reason);
        assert_eq!(
            (ahead.prompt_tokens, ahead.completion_tokens),
            (alone.prompt_tokens, alone.completion_tokens)
        );
        assert_eq!((alone.drafted_tokens, alone.accepted_tokens), (0, 0));
        assert!(ahead.accepted_tokens <= ahead.drafted_tokens.min(ahead.completion_tokens));
        self.drafted += ahead.drafted_tokens;
        self.accepted += ahead.accepted_tokens;
        (want, reason)
    }

    /// Guesses came true and guesses did not; without both, sameness says nothing.
    fn assert_tried(&self) {
        let (drafted, accepted) = (self.drafted, self.accepted);
        assert!(accepted > 9 && drafted > accepted + 9, "{accepted} of {drafted}");
    }
}

/// Tokens that every test vocabulary has, the second half a copy of the first.
fn prompt(n: u32, len: u32) -> Vec<u32> {
    let half = len.div_ceil(2);
    (0..len).map(|i| 3 + (n * 31 + (i % half) * 7) % 90).collect()
}

fn greedy(max_tokens: u32) -> Sampling {
    Sampling {
        max_tokens: Some(max_tokens),
        temperature: Some(0.0),
        ..Sampling::default()
    }
}

fn drawn(max_tokens: u32, temperature: f32, seed: u64) -> Sampling {
    Sampling {
        max_tokens: Some(max_tokens),
        temperature: Some(temperature),
        seed: Some(seed),
        ..Sampling::default()
    }
}

#[test]
fn a_row_has_the_same_logits_alone_and_among_drafts() {
    for model in models() {
        let pool = Arc::new(Pool::new(2).unwrap());
        let mut runner = Runner::new(model.clone(), pool, &options()).unwrap();
        let vocab = model.config().vocab;
        let tokens = prompt(1, 50);
        let given = 30;
        let mut rows = |widths: &[usize]| {
            let mut table = BlockTable::default();
            runner.cache().reserve(&mut table, tokens.len()).unwrap();
            let mut rows = Vec::new();
            let (mut at, mut widths) = (0, widths.iter().cycle());
            while at < tokens.len() {
                let end = if at == 0 {
                    given
                } else {
                    tokens.len().min(at + widths.next().unwrap())
                };
                let slice = Slice {
                    tokens: &tokens[at..end],
                    start: at,
                    blocks: table.blocks(),
                    prefill: at == 0,
                    logits: Logits::All,
                };
                runner.step(&[slice], &mut |_, _, logits| {
                    rows.extend(logits.iter().map(|logit| logit.to_bits()));
                });
                at = end;
            }
            runner.cache().release(&mut table);
            rows
        };
        let alone = rows(&[1]);
        assert_eq!(alone.len(), tokens.len() * vocab);
        for widths in [[2, 5], [DRAFT_MAX + 1, 3]] {
            assert!(rows(&widths) == alone, "slices of {widths:?} rows: other bits");
        }
    }
}

#[test]
fn greedy_text_is_the_same_for_every_model() {
    let mut pair = Pair::new();
    for model in models() {
        for n in 0..3 {
            pair.same(&model, &prompt(n, 8 + n * 9), &greedy(60));
        }
    }
    pair.assert_tried();
}

#[test]
fn a_seed_gives_the_same_text() {
    let (model, mut pair) = (tiny(), Pair::new());
    for seed in 0..12 {
        let sampling = Sampling {
            top_k: Some(40),
            min_p: Some(0.05),
            ..drawn(80, 0.2 + 0.1 * (seed % 4) as f32, seed)
        };
        pair.same(&model, &prompt(seed as u32 % 3, 20), &sampling);
    }
    pair.assert_tried();
}

#[test]
fn penalties_and_log_probabilities_are_the_same() {
    let (model, mut pair) = (tiny(), Pair::new());
    for (seed, temperature) in [(1, 0.0), (2, 0.3), (3, 0.6)] {
        let sampling = Sampling {
            repeat_penalty: Some(1.05),
            presence_penalty: Some(0.1),
            frequency_penalty: Some(0.02),
            repeat_last: Some(48),
            logprobs: Some(3),
            ..drawn(100, temperature, seed)
        };
        let (events, _) = pair.same(&model, &prompt(2, 24), &sampling);
        let complete = events.iter().all(|event| match event {
            Event::Token(t) => t.token.is_none() || (t.logprob.is_some() && t.top.len() == 3),
            _ => true,
        });
        assert!(complete);
    }
    pair.assert_tried();
}

#[test]
fn every_length_ends_where_it_should() {
    let (model, mut pair) = (tiny(), Pair::new());
    let (whole, _) = pair.same(&model, &prompt(0, 20), &greedy(40));
    for max in 1..40 {
        let (events, reason) = pair.same(&model, &prompt(0, 20), &greedy(max));
        assert_eq!(reason, FinishReason::Length);
        assert_eq!(tokens_of(&events), tokens_of(&whole)[..max as usize]);
    }
    assert!(pair.accepted > 9);
}

#[test]
fn an_answer_ends_with_the_context() {
    let (model, mut pair) = (tiny(), Pair::new());
    for len in [1024 - 40, 1024 - 33, 1024 - 3, 1024 - 2, 1024 - 1] {
        let (events, reason) = pair.same(&model, &prompt(1, len), &greedy(100));
        assert_eq!(reason, FinishReason::Length);
        assert_eq!(tokens_of(&events).len(), 1024 - len as usize);
    }
}

#[test]
fn a_stop_string_inside_a_run_ends_it() {
    let (model, mut pair) = (tiny(), Pair::new());
    let (whole, _) = pair.same(&model, &prompt(0, 20), &greedy(60));
    let texts = whole.iter().filter_map(|event| match event {
        Event::Token(token) => Some(token.text.as_str()),
        _ => None,
    });
    let text: Vec<char> = texts.collect::<String>().chars().collect();
    let mut stopped = 0;
    for start in (0..text.len().saturating_sub(4)).step_by(5) {
        let sampling = Sampling {
            stop: vec![text[start..start + 4].iter().collect()],
            ..greedy(60)
        };
        let (_, reason) = pair.same(&model, &prompt(0, 20), &sampling);
        stopped += usize::from(reason == FinishReason::Stop);
    }
    assert!(stopped > 5, "{stopped}");
    pair.assert_tried();
}

#[test]
fn an_end_token_inside_a_run_ends_it() {
    let (model, mut pair) = (tiny(), Pair::new());
    let mut ended = 0;
    for seed in 0..24 {
        let (_, reason) = pair.same(
            &model,
            &prompt(seed as u32, 24),
            &drawn(600, 0.5 + 0.1 * (seed % 5) as f32, seed),
        );
        ended += usize::from(reason == FinishReason::Stop);
    }
    assert!(ended > 5, "{ended} of 24 were ended by the model");
    pair.assert_tried();
}

#[test]
fn a_crowd_and_evictions_change_nothing() {
    let model = tiny();
    let (alone, ahead) = (engine(), engine());
    // Room for two of them or three: the others wait, give way and come back.
    let narrow = Engine::start(Options {
        kv_tokens: 160,
        ..options()
    })
    .unwrap();
    let orders: Vec<_> = (0..20u32)
        .map(|n| {
            (
                prompt(n, 10 + n % 5),
                drawn(50, 0.1 * (n % 4) as f32, u64::from(n)),
            )
        })
        .collect();
    let want: Vec<_> = orders
        .iter()
        .map(|(tokens, sampling)| ask(&alone, &model, tokens, &plain(sampling), false).end().0)
        .collect();
    for engine in [&ahead, &narrow] {
        let asked: Vec<_> = orders
            .iter()
            .map(|(tokens, sampling)| ask(engine, &model, tokens, sampling, false))
            .collect();
        let (mut drafted, mut accepted) = (0, 0);
        for (asked, want) in asked.into_iter().zip(&want) {
            let (got, _, usage) = asked.end();
            assert_eq!(&got, want);
            drafted += u64::from(usage.drafted_tokens);
            accepted += u64::from(usage.accepted_tokens);
        }
        assert!(accepted > 9 && drafted > accepted, "{accepted} of {drafted}");
        until(|| (engine.stats().drafted, engine.stats().accepted) == (drafted, accepted));
    }
}

#[test]
fn a_reader_that_hesitates_gets_everything_in_order() {
    let (model, ahead) = (tiny(), engine());
    let (want, ..) = ask(&ahead, &model, &prompt(0, 20), &greedy(60), false).end();
    let (got, _, usage) = ask(&ahead, &model, &prompt(0, 20), &greedy(60), true).end();
    assert_eq!(got, want);
    assert!(usage.accepted_tokens > 0);
}

#[test]
fn a_cancelled_answer_leaves_nothing_behind() {
    let (model, ahead) = (tiny(), engine());
    let asked = ask(&ahead, &model, &prompt(0, 20), &greedy(900), false);
    while !matches!(asked.items.recv_timeout(DEADLINE), Ok(Ok(Event::Token(_)))) {}
    asked.progress.cancel();
    let last = asked.items.iter().last();
    assert!(
        matches!(last, Some(Err(EngineError::Cancelled) | Ok(Event::Done { .. }))),
        "{last:?}"
    );
    until(|| ahead.is_idle());
    // The whole cache is free again.
    let (events, ..) = ask(&ahead, &model, &prompt(1, 1000), &greedy(24), false).end();
    assert_eq!(tokens_of(&events).len(), 24);
}

#[test]
fn a_request_says_whether() {
    let (model, ahead) = (tiny(), engine());
    let (want, _, usage) = ask(&ahead, &model, &prompt(0, 20), &plain(&greedy(40)), false).end();
    assert_eq!((usage.drafted_tokens, usage.accepted_tokens), (0, 0));
    let (got, _, usage) = ask(&ahead, &model, &prompt(0, 20), &greedy(40), false).end();
    assert!(got == want && usage.drafted_tokens > 0);
}
