//! What the KV cache keeps: it saves work, changes no answer, and serves its owner alone.
use super::*;

const NORMAL: Priority = Priority::Normal;

impl Inbox {
    fn cached(&self) -> u32 {
        match self.wait().pop() {
            Some(Ok(Event::Done { usage, .. })) => usage.cached_tokens,
            other => panic!("{other:?}"),
        }
    }
}

/// The engine says how many are in use after a step, which may be later than the step's tokens come.
fn blocks_in_use(engine: &Engine, wanted: impl Fn(usize) -> bool) {
    let started = Instant::now();
    while !wanted(engine.stats().kv.in_use) {
        assert!(started.elapsed() < DEADLINE, "{:?}", engine.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn no_blocks_in_use(engine: &Engine) {
    blocks_in_use(engine, |count| count == 0);
}

#[test]
fn the_next_turn_of_a_talk_computes_only_what_is_new() {
    let model = model();
    let engine = Engine::start(options()).unwrap();
    let fresh = Engine::start(options()).unwrap();
    let mut talk = prompt(1, 45);
    let mut known = 0;
    for turn in 0..4 {
        let asked = ask(&engine, &model, &talk, 25).unwrap();
        let answer = asked.inbox.tokens();
        assert_eq!(asked.inbox.cached(), known, "turn {turn}");
        assert_eq!(
            answer,
            ask_as(&fresh, &model, (turn, NORMAL), &talk, 25)
                .unwrap()
                .inbox
                .tokens()
        );
        talk.extend(&answer);
        // All but the last token of the answer, which was never computed.
        known = talk.len() as u32 - 1;
        talk.extend(prompt(7 + turn, 11));
    }
    no_blocks_in_use(&engine);
    assert!(engine.stats().kv.kept > 0);
}

#[test]
fn the_same_prompt_again_gives_the_same_answer_and_costs_one_token() {
    let model = model();
    let engine = Engine::start(options()).unwrap();
    for len in [1, 31, 32, 33, 64, 100] {
        let tokens = prompt(len, len);
        let sampled = Sampling {
            max_tokens: Some(12),
            temperature: Some(1.0),
            seed: Some(5),
            logprobs: Some(1),
            ..Sampling::default()
        };
        let ask = || {
            ask_with(&engine, &model, &tokens, sampled.clone(), false)
                .unwrap()
                .inbox
        };
        let (first, second) = (ask(), {
            ask().wait();
            ask()
        });
        assert_eq!(first.tokens(), second.tokens());
        assert_eq!(second.cached(), len - 1, "{len} tokens");
    }
}

#[test]
fn users_never_share() {
    let model = model();
    let engine = Engine::start(options()).unwrap();
    let tokens = prompt(1, 100);
    let ask = |uid| ask_as(&engine, &model, (uid, NORMAL), &tokens, 4).unwrap().inbox;
    assert_eq!(ask(1).cached(), 0);
    assert_eq!(ask(2).cached(), 0);
    assert_eq!((ask(1).cached(), ask(2).cached()), (99, 99));
}

#[test]
fn requests_that_run_together_share_what_is_full() {
    let model = model();
    let engine = Engine::start(options()).unwrap();
    let shared = prompt(1, 96);
    // Token by token, so that it still runs when the others are over.
    let long = Sampling {
        max_tokens: Some(700),
        speculation: Some(false),
        ..Sampling::default()
    };
    let first = ask_with(&engine, &model, &shared, long, false).unwrap();
    first.inbox.first_token();
    blocks_in_use(&engine, |count| count >= 3);
    let others: Vec<_> = (2..6)
        .map(|n| {
            let mut tokens = shared.clone();
            tokens.extend(prompt(n, 5));
            ask(&engine, &model, &tokens, 3).unwrap()
        })
        .collect();
    for other in &others {
        assert_eq!(other.inbox.cached(), 96);
    }
    first.progress.cancel();
    assert_eq!(first.inbox.error(), EngineError::Cancelled);
    no_blocks_in_use(&engine);
}

#[test]
fn prompt_logprobs_are_computed_even_where_the_prompt_is_known() {
    let model = model();
    let engine = Engine::start(options()).unwrap();
    let tokens = prompt(3, 70);
    ask(&engine, &model, &tokens, 2).unwrap().inbox.wait();
    let wanted = Sampling {
        max_tokens: Some(1),
        logprobs: Some(0),
        ..Sampling::default()
    };
    let scored = ask_with(&engine, &model, &tokens, wanted, true).unwrap().inbox;
    assert_eq!(scored.cached(), 0);
    let count = |item: &Result<Event, _>| matches!(item, Ok(Event::Prompt(t)) if t.logprob.is_some());
    assert_eq!(scored.wait().iter().filter(|item| count(item)).count(), 69);
}

#[test]
fn what_was_used_longest_ago_goes_first_and_nothing_kept_is_in_the_way() {
    let model = model();
    // Eight blocks; each request leaves two.
    let engine = Engine::start(Options {
        kv_tokens: 256,
        ..options()
    })
    .unwrap();
    let ask = |n| ask(&engine, &model, &prompt(n, 60), 2).unwrap().inbox.cached();
    for n in 0..4 {
        assert_eq!(ask(n), 0);
    }
    assert_eq!(ask(3), 59);
    for n in 4..40 {
        assert_eq!(ask(n), 0, "the cache is full of others");
    }
    assert_eq!(ask(3), 0);
    let whole = ask_as(&engine, &model, (9, NORMAL), &prompt(50, 240), 20).unwrap();
    assert_eq!(
        whole.inbox.tokens().len(),
        16,
        "the whole cache is there for who runs"
    );
    no_blocks_in_use(&engine);
}

#[test]
fn an_unloaded_model_leaves_nothing() {
    let model = model();
    let engine = Engine::start(options()).unwrap();
    ask(&engine, &model, &prompt(1, 80), 4).unwrap().inbox.wait();
    idle(&engine);
    assert!(engine.stats().kv.kept > 0);
    engine.unload(&model);
    let started = Instant::now();
    while engine.stats().kv.total > 0 {
        assert!(started.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Many requests of few users over a cache that is too small, with cancellations: every answer is what it is alone.
#[test]
fn a_narrow_cache_under_load_changes_no_answer_and_loses_no_block() {
    let model = model();
    let roomy = Engine::start(options()).unwrap();
    let narrow = Engine::start(Options {
        kv_tokens: 320,
        sequences_max: 6,
        queue_max: 100,
        ..options()
    })
    .unwrap();
    let text = |n: u32| {
        let mut tokens = prompt(n % 3, 40);
        tokens.extend(prompt(n % 7, 3 + n % 40));
        tokens
    };
    let alone: Vec<_> = (0..60)
        .map(|n| {
            ask_as(&roomy, &model, (1000 + n, NORMAL), &text(n), 30)
                .unwrap()
                .inbox
                .tokens()
        })
        .collect();
    let asked: Vec<_> = (0..60)
        .map(|n| ask_as(&narrow, &model, (n % 2, NORMAL), &text(n), 30).unwrap())
        .collect();
    for cancelled in asked.iter().step_by(5) {
        cancelled.progress.cancel();
    }
    for (n, asked) in asked.iter().enumerate() {
        if n % 5 > 0 {
            assert_eq!(asked.inbox.tokens(), alone[n], "request {n}");
        }
    }
    idle(&narrow);
    no_blocks_in_use(&narrow);
}
