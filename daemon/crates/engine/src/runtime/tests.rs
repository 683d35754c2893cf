//! Sequences that leave while their chunk is under way, step by step.
mod machines;
mod quota;

use super::*;
use crate::forward::Part;
use crate::{LoadOptions, Progress, SamplingParams, Sink};
use hyprstream_kernels::KvFormat;
use hyprstream_protocol::{Event, Priority, Sampling, Usage};
use std::path::Path;
use std::sync::Mutex;

type Items = Arc<Mutex<Vec<Result<Event, EngineError>>>>;

struct Inbox(Items);

impl Sink for Inbox {
    fn ready(&self) -> bool {
        true
    }
    fn closed(&self) -> bool {
        false
    }
    fn send(&mut self, item: Result<Event, EngineError>) {
        self.0.lock().unwrap().push(item);
    }
}

struct Asked {
    items: Items,
    progress: Arc<Progress>,
}

impl Asked {
    fn tokens(&self) -> Vec<u32> {
        let items = self.items.lock().unwrap();
        let token = |item: &Result<Event, _>| match item {
            Ok(Event::Token(token)) => token.token,
            _ => None,
        };
        items.iter().filter_map(token).collect()
    }

    fn scores(&self) -> Vec<(Option<u32>, Option<f32>)> {
        let items = self.items.lock().unwrap();
        let score = |item: &Result<Event, _>| match item {
            Ok(Event::Prompt(token)) => Some((token.token, token.logprob)),
            _ => None,
        };
        items.iter().filter_map(score).collect()
    }

    fn usage(&self) -> Usage {
        match self.items.lock().unwrap().last() {
            Some(Ok(Event::Done { usage, .. })) => *usage,
            other => panic!("{other:?}"),
        }
    }

    fn is_over(&self) -> bool {
        matches!(
            self.items.lock().unwrap().last(),
            Some(Ok(Event::Done { .. }) | Err(_))
        )
    }
}

fn runtime() -> Runtime {
    runtime_with(None)
}

fn runtime_with(draft_cost: Option<f32>) -> Runtime {
    runtime_of("archs/qwen3/hf", 1024, draft_cost)
}

fn runtime_of(model: &str, kv_tokens: usize, draft_cost: Option<f32>) -> Runtime {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/golden");
    let path = golden.join(model);
    let pool = Arc::new(Pool::new(2).unwrap());
    let model = Model::load("tiny", &path, &LoadOptions::new(&pool), &mut |_, _| {}).unwrap();
    let options = Options {
        kv_format: KvFormat::F32,
        kv_tokens,
        draft_cost,
        ..Options::default()
    };
    Runtime::new(Arc::new(model), pool, &options, &Arc::default()).unwrap()
}

fn ask(runtime: &mut Runtime, uid: u32, tokens: Vec<u32>, max_tokens: u32) -> Asked {
    let wanted = Sampling {
        max_tokens: Some(max_tokens),
        temperature: Some(0.0),
        ..Sampling::default()
    };
    ask_for(runtime, uid, tokens, &wanted, false)
}

/// Asks for the log-probabilities of these tokens.
fn score(runtime: &mut Runtime, tokens: Vec<u32>) -> Asked {
    let wanted = Sampling {
        max_tokens: Some(0),
        logprobs: Some(1),
        ..Sampling::default()
    };
    ask_for(runtime, 1, tokens, &wanted, true)
}

fn ask_for(runtime: &mut Runtime, uid: u32, tokens: Vec<u32>, wanted: &Sampling, echo: bool) -> Asked {
    ask_of(runtime, uid, tokens, wanted, echo, None)
}

fn ask_of(
    runtime: &mut Runtime,
    uid: u32,
    tokens: Vec<u32>,
    wanted: &Sampling,
    echo: bool,
    kv_tokens_max: Option<usize>,
) -> Asked {
    let asked = Asked {
        items: Items::default(),
        progress: Arc::new(Progress::new()),
    };
    let plain = Sampling {
        speculation: Some(false),
        ..Sampling::default()
    };
    runtime.accept(Request {
        id: "test".into(),
        uid,
        priority: Priority::default(),
        model: runtime.model().clone(),
        kv_tokens_max,
        tokens,
        sampling: SamplingParams::resolve(wanted, &plain).unwrap(),
        echo,
        progress: asked.progress.clone(),
        sink: Box::new(Inbox(asked.items.clone())),
    });
    asked
}

fn text(n: u32, len: u32) -> Vec<u32> {
    (0..len).map(|i| 3 + (n * 31 + i * i * 7) % 90).collect()
}

#[test]
fn memory_is_made_ready_beyond_what_was_used_and_no_further() {
    let mut runtime = runtime_of("archs/qwen3/hf", 100 * KV_BLOCK, None);
    let layers = runtime.model().config().layers;
    let made_ready = |runtime: &mut Runtime| {
        std::iter::repeat_with(|| runtime.make_ready())
            .take_while(|&did| did)
            .count()
    };
    // 32 blocks before any is used.
    assert_eq!(made_ready(&mut runtime), layers);
    assert_eq!(made_ready(&mut runtime), 0);
    let tokens = text(1, 70);
    let first = ask(&mut runtime, 1, tokens.clone(), 5);
    step_until_over(&mut runtime, &first);
    // One block in 32 more than are ready brings as many.
    assert_eq!(made_ready(&mut runtime), layers);
    let again = ask(&mut runtime, 2, tokens, 5);
    step_until_over(&mut runtime, &again);
    assert_eq!(again.tokens(), first.tokens());
    assert_eq!(made_ready(&mut runtime), 0, "64 blocks are ready, 38 wanted");
    let long = ask(&mut runtime, 3, text(2, 90 * KV_BLOCK as u32), 1);
    step_until_over(&mut runtime, &long);
    assert_eq!(made_ready(&mut runtime), 2 * layers);
    assert_eq!(made_ready(&mut runtime), 0, "there is no more");
}

/// A step with one part of a chunk at most, since parts are taken to be dear.
fn step(runtime: &mut Runtime) {
    for lane in Lane::READING {
        for part in [Part::Attention(0), Part::FeedForward(0), Part::Logits(0)] {
            runtime.pace.observe_part(lane, part, 1, 1e6);
        }
    }
    runtime.pace.observe_step(1, 1e-6);
    assert_eq!(runtime.step(Instant::now(), &mut |_| {}), Did::Work);
}

/// Steps until the tokens of the last sequence that came are in the middle of their chunk.
fn step_into_chunk(runtime: &mut Runtime) {
    for _ in 0..100 {
        step(runtime);
        let lane = runtime.running.last().filter(|s| s.planned > 0).map(|s| s.lane);
        if lane.is_some_and(|lane| runtime.runner.tokens(lane) > 0) {
            return;
        }
    }
    panic!("no chunk is under way after a hundred steps");
}

fn step_until_over(runtime: &mut Runtime, asked: &Asked) {
    for _ in 0..2000 {
        if asked.is_over() {
            return;
        }
        step(runtime);
    }
    panic!("no end");
}

#[test]
fn who_cancels_in_the_middle_of_a_chunk_is_gone_at_once_and_holds_nobody_up() {
    let alone = |n, len, max| {
        let mut runtime = runtime();
        let asked = ask(&mut runtime, 1, text(n, len), max);
        step_until_over(&mut runtime, &asked);
        asked.tokens()
    };
    let mut runtime = runtime();
    let answer = ask(&mut runtime, 1, text(1, 5), 300);
    step_until_started(&mut runtime, &answer);
    let other = ask(&mut runtime, 1, text(2, 200), 10);
    let mut cancelled = 0;
    while !other.is_over() {
        let asked = ask(&mut runtime, 2, text(3 + cancelled, 150), 5);
        step_into_chunk(&mut runtime);
        let before = runtime.kv().in_use;
        asked.progress.cancel();
        runtime.sweep(Instant::now());
        assert_eq!(runtime.kv().in_use, before - 5, "free before the next step");
        assert_eq!(
            asked.items.lock().unwrap().last(),
            Some(&Err(EngineError::Cancelled))
        );
        step(&mut runtime);
        cancelled += 1;
        assert!(cancelled < 100, "the other never gets on");
    }
    assert!(cancelled > 3);
    step_until_over(&mut runtime, &answer);
    assert_eq!(other.tokens(), alone(2, 200, 10));
    assert_eq!(answer.tokens(), alone(1, 5, 300));
    assert_eq!(runtime.kv().in_use, 0);
}

fn step_until_started(runtime: &mut Runtime, asked: &Asked) {
    while asked.tokens().is_empty() {
        step(runtime);
    }
}

#[test]
fn an_unfinished_chunk_is_never_found_by_others() {
    let mut runtime = runtime();
    let answer = ask(&mut runtime, 1, text(1, 5), 300);
    step_until_started(&mut runtime, &answer);
    let first = ask(&mut runtime, 1, text(2, 100), 3);
    step_into_chunk(&mut runtime);
    first.progress.cancel();
    runtime.sweep(Instant::now());
    let second = ask(&mut runtime, 1, text(2, 100), 3);
    step(&mut runtime);
    let sequence = runtime.running.last().map(|s| (s.reused, s.cached));
    assert_eq!(sequence, Some((0, 0)));
    step_until_over(&mut runtime, &second);
    assert_eq!(second.tokens().len(), 3);
}

#[test]
fn a_short_prompt_goes_beside_a_chunk_under_way() {
    let mut runtime = runtime();
    let answer = ask(&mut runtime, 1, text(1, 5), 400);
    step_until_started(&mut runtime, &answer);
    let long = ask(&mut runtime, 1, text(2, 400), 2);
    step_into_chunk(&mut runtime);
    let short = ask(&mut runtime, 1, text(3, 20), 2);
    step(&mut runtime);
    assert_eq!(runtime.running.last().map(|s| s.lane), Some(Lane::Short));
    assert!(runtime.runner.tokens(Lane::Long) > 0);
    let steps = (0..20).take_while(|_| {
        step(&mut runtime);
        !short.is_over()
    });
    assert!(steps.count() < 10, "two layers and logits are five parts");
    assert!(!long.is_over());
    step_until_over(&mut runtime, &long);
}

/// Steps until some of the logits that a chunk wants are through, and others are not.
fn step_into_logits(runtime: &mut Runtime) {
    for _ in 0..100 {
        step(runtime);
        let under_way = runtime.runner.tokens(Lane::Long) > 0;
        if under_way && matches!(runtime.runner.next_part(Lane::Long), Part::Logits(said) if said > 0) {
            return;
        }
    }
    panic!("no chunk wants more than a tile of logits");
}

fn park(runtime: &mut Runtime, at: usize) {
    runtime.park(at, Instant::now());
    runtime.queue_parked();
}

#[test]
fn who_leaves_between_two_tiles_of_logits_takes_none_of_the_others() {
    let mut alone = runtime();
    let expected = ask(&mut alone, 2, text(2, 8), 5);
    step_until_over(&mut alone, &expected);
    let mut runtime = runtime();
    let scored = score(&mut runtime, text(1, 60));
    // Fewer tokens than a tile has rows: all of them move up into what is through.
    let other = ask(&mut runtime, 2, text(2, 8), 5);
    step_into_logits(&mut runtime);
    scored.progress.cancel();
    step_until_over(&mut runtime, &other);
    assert_eq!(other.tokens().len(), 5);
    assert_eq!(other.tokens(), expected.tokens());
}

#[test]
fn who_is_parked_after_it_was_heard_says_its_token_once() {
    let alone = |n| {
        let mut runtime = runtime();
        let asked = ask(&mut runtime, 1, text(n, 30), 5);
        step_until_over(&mut runtime, &asked);
        (n, asked.tokens())
    };
    // A token said twice shows only where the next one differs.
    let (n, expected) = (2..200)
        .map(alone)
        .find(|(_, tokens)| tokens[0] != tokens[1])
        .unwrap();
    let mut runtime = runtime();
    let other = ask(&mut runtime, 1, text(n, 30), 5);
    let scored = score(&mut runtime, text(1, 60));
    step_into_logits(&mut runtime);
    assert!(runtime.running[0].is_heard());
    park(&mut runtime, 0);
    step_until_over(&mut runtime, &other);
    step_until_over(&mut runtime, &scored);
    assert_eq!(other.tokens(), expected);
    // What it left in the cache is right as well.
    let again = ask(&mut runtime, 1, text(n, 30), 5);
    step_until_over(&mut runtime, &again);
    assert_eq!(again.tokens(), expected);
}

#[test]
fn scores_of_who_is_parked_between_its_tiles_come_once_and_in_order() {
    let mut alone = runtime();
    let expected = score(&mut alone, text(1, 60));
    step_until_over(&mut alone, &expected);
    assert_eq!(
        expected.scores().len(),
        60,
        "one for each token, the first without a number"
    );
    let mut runtime = runtime();
    let scored = score(&mut runtime, text(1, 60));
    step_into_logits(&mut runtime);
    park(&mut runtime, 0);
    step_until_over(&mut runtime, &scored);
    assert_eq!(scored.scores(), expected.scores());
}

#[test]
fn drafts_that_did_not_come_true_are_charged_too() {
    // Every guess seems to pay, so many of them are wrong.
    let mut runtime = runtime_with(Some(0.0));
    let wanted = Sampling {
        max_tokens: Some(200),
        temperature: Some(5.0),
        top_k: Some(3),
        ignore_eos: true,
        seed: Some(1),
        speculation: Some(true),
        ..Sampling::default()
    };
    let asked = ask_for(&mut runtime, 1, text(1, 20), &wanted, false);
    step_until_over(&mut runtime, &asked);
    let usage = asked.usage();
    let refused = usage.drafted_tokens - usage.accepted_tokens;
    assert!(refused > 9 && usage.accepted_tokens > 0, "{usage:?}");
    // The first token of the answer comes with the prompt.
    let computed = 20 + usage.completion_tokens - 1 + refused;
    assert_eq!(runtime.shares.served(1), u64::from(computed));
}
