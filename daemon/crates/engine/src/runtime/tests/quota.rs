//! What one user may have of the cache, while others use the rest.
use super::*;
use hyprstream_protocol::FinishReason;

/// Eight blocks of 32.
const MAX: Option<usize> = Some(256);

fn ask_within(
    runtime: &mut Runtime,
    uid: u32,
    tokens: Vec<u32>,
    max_tokens: u32,
    max: Option<usize>,
) -> Asked {
    let wanted = Sampling {
        max_tokens: Some(max_tokens),
        temperature: Some(0.0),
        ignore_eos: true,
        ..Sampling::default()
    };
    ask_of(runtime, uid, tokens, &wanted, false, max)
}

fn finish(asked: &Asked) -> FinishReason {
    match asked.items.lock().unwrap().last() {
        Some(Ok(Event::Done { reason, .. })) => *reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_more_than_a_user_may_have_is_refused_and_others_do_not_notice() {
    let mut runtime = runtime();
    let held = [1, 2].map(|n| ask_within(&mut runtime, 1, text(n, 100), 5, MAX));
    let refused = ask_within(&mut runtime, 1, text(3, 100), 5, MAX);
    let other = ask_within(&mut runtime, 2, text(3, 100), 5, MAX);
    let free = ask_within(&mut runtime, 0, text(3, 300), 5, None);
    assert_eq!(
        refused.items.lock().unwrap().last(),
        Some(&Err(EngineError::UserKv {
            held: 256,
            wanted: 128,
            max: 256
        }))
    );
    for asked in held.iter().chain([&other, &free]) {
        step_until_over(&mut runtime, asked);
        assert_eq!(
            asked.tokens().len(),
            5,
            "{:?}",
            asked.items.lock().unwrap().last()
        );
    }
    let again = ask_within(&mut runtime, 1, text(3, 100), 5, MAX);
    step_until_over(&mut runtime, &again);
    assert_eq!(again.tokens().len(), 5);
}

#[test]
fn answers_that_outgrow_the_limit_together_come_one_after_the_other() {
    let mut runtime = runtime();
    let asked = [1, 2].map(|n| ask_within(&mut runtime, 1, text(n, 60), 150, MAX));
    let mut both = 0;
    for _ in 0..2000 {
        if asked.iter().all(Asked::is_over) {
            break;
        }
        step(&mut runtime);
        let kv = runtime.kv();
        assert!(kv.in_use + kv.kept <= 8, "{kv:?}");
        both += usize::from(runtime.running() == 2);
    }
    assert!(both > 10, "they run side by side while there is room");
    for asked in &asked {
        assert_eq!(asked.tokens().len(), 150);
    }
}

#[test]
fn one_alone_gets_as_far_as_the_limit() {
    let mut runtime = runtime();
    let asked = ask_within(&mut runtime, 1, text(1, 200), 500, MAX);
    step_until_over(&mut runtime, &asked);
    assert_eq!((asked.tokens().len(), finish(&asked)), (56, FinishReason::Length));
}

#[test]
fn what_is_kept_for_a_user_gives_way_to_that_users_own_first() {
    let mut runtime = runtime();
    let theirs = ask_within(&mut runtime, 2, text(1, 200), 3, None);
    step_until_over(&mut runtime, &theirs);
    for n in 2..22 {
        let mine = ask_within(&mut runtime, 1, text(n, 200), 3, MAX);
        step_until_over(&mut runtime, &mine);
        let kv = runtime.kv();
        assert!(kv.in_use + kv.kept <= 8 + 7, "{kv:?}");
    }
    let again = ask_within(&mut runtime, 2, text(1, 200), 3, None);
    step(&mut runtime);
    assert!(runtime.running.iter().any(|s| s.uid == 2 && s.reused >= 192));
    step_until_over(&mut runtime, &again);
    // A user's own newest is the one that stays.
    let mine = ask_within(&mut runtime, 1, text(21, 200), 3, MAX);
    step(&mut runtime);
    assert!(runtime.running.iter().any(|s| s.uid == 1 && s.reused >= 192));
    step_until_over(&mut runtime, &mine);
}
