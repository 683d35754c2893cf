//! Whose turn it is: users and priorities.
use super::*;

const NORMAL: Priority = Priority::Normal;

fn end(asked: &Asked) -> Instant {
    asked.inbox.wait();
    asked.inbox.last_at.lock().unwrap().unwrap()
}

#[test]
fn many_requests_of_one_user_do_not_starve_anothers_single_one() {
    let model = model();
    let engine = Engine::start(Options {
        sequences_max: 4,
        queue_max: 64,
        ..options()
    })
    .unwrap();
    let ask = |n| ask_as(&engine, &model, (1, NORMAL), &prompt(n, 20), 100).unwrap();
    let mut many = vec![ask_held(&engine, || ask(0))];
    many.extend((1..60).map(ask));
    let single = ask_as(&engine, &model, (2, NORMAL), &prompt(99, 20), 20).unwrap();
    many[0].inbox.release();
    let single = end(&single);
    let later = many.iter().filter(|asked| end(asked) > single).count();
    // All but what was over already, at most: no queue of sixty stood before it.
    assert!(later >= 30, "{later} of 60 ended later");
}

#[test]
fn slots_that_one_user_holds_are_shared_once_another_comes() {
    let model = model();
    let engine = Engine::start(Options {
        sequences_max: 2,
        ..options()
    })
    .unwrap();
    let ask = |n| ask_as(&engine, &model, (1, NORMAL), &prompt(n, 20), 400).unwrap();
    let mut first = None;
    let second = ask_held(&engine, || {
        first = Some(ask(0));
        ask(1)
    });
    let long = [first.unwrap(), second];
    let single = ask_as(&engine, &model, (2, NORMAL), &prompt(99, 20), 5).unwrap();
    long[1].inbox.release();
    let single = end(&single);
    for asked in &long {
        assert!(end(asked) > single, "both were far from their ends");
        assert_eq!(asked.inbox.tokens().len(), 400, "whoever gave way goes on later");
    }
}

#[test]
fn a_higher_priority_runs_before_what_waits_longer() {
    let model = model();
    let engine = Engine::start(Options {
        sequences_max: 1,
        ..options()
    })
    .unwrap();
    let ask = |n, priority| ask_as(&engine, &model, (1, priority), &prompt(n, 20), 150).unwrap();
    let first = ask_held(&engine, || ask(0, Priority::Batch));
    let asked = [
        ask(1, Priority::Batch),
        ask(2, Priority::Normal),
        ask(3, Priority::Interactive),
    ];
    first.inbox.release();
    let ends = asked.each_ref().map(end);
    assert!(ends[2] < ends[1] && ends[1] < ends[0], "{ends:?}");
    assert!(ends[1] < end(&first), "what ran gave way");
    assert_eq!(first.inbox.tokens().len(), 150);
}

#[test]
fn one_user_cannot_fill_the_queue_for_others() {
    let model = model();
    let engine = Engine::start(Options {
        queue_max: 4,
        sequences_max: 1,
        ..options()
    })
    .unwrap();
    let ask = |uid, n| ask_as(&engine, &model, (uid, NORMAL), &prompt(n, 20), 200);
    let mut taken: Vec<_> = (0..20).map_while(|n| ask(1, n).ok()).collect();
    assert!(taken.len() < 20);
    assert!(matches!(ask(1, 30), Err(SubmitError::Busy { .. })));
    taken.push(ask(2, 31).unwrap());
    for asked in &taken {
        asked.progress.cancel();
    }
    idle(&engine);
}
