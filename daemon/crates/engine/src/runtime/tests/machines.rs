//! What the scheduler makes of the times of other machines: the real one computes, and others say how long it took. So
//! what is promised of times is tested by arithmetic, and no clock decides.
use super::*;
use crate::runtime::watch::Work;

/// Seconds of a step of so many rows, and of half a layer for so many tokens.
#[derive(Clone, Copy, Debug)]
struct Machine {
    step: [f32; 2],
    part: [f32; 2],
}

impl Machine {
    fn takes(&self, work: Work) -> f32 {
        let ([fixed, each], count) = match work {
            Work::Step(rows) => (self.step, rows),
            Work::Part(_, _, tokens) => (self.part, tokens),
        };
        fixed + each * count as f32
    }
}

/// What was computed, and the seconds of each.
type Log = Arc<Mutex<Vec<(Work, f32)>>>;

/// A runtime that believes that it runs on this machine.
fn runtime_on(machine: Machine, kv_tokens: usize, draft_cost: Option<f32>) -> (Runtime, Log) {
    let mut runtime = runtime_of("tiny/tiny-hf", kv_tokens, draft_cost);
    let log = Log::default();
    let told = log.clone();
    runtime.watch.machine = Some(Box::new(move |work| {
        let seconds = machine.takes(work);
        told.lock().unwrap().push((work, seconds));
        seconds
    }));
    (runtime, log)
}

fn turn(runtime: &mut Runtime, log: &Log) -> Vec<(Work, f32)> {
    log.lock().unwrap().clear();
    assert_eq!(runtime.step(Instant::now(), &mut |_| {}), Did::Work);
    log.lock().unwrap().clone()
}

const ANSWERS: usize = 4;
const PROMPT: u32 = 4096;
/// [`Options::prefill_tokens_max`] as it is by default.
const CHUNK_MAX: usize = 512;

/// Reads a prompt of [`PROMPT`] tokens beside as many answers; returns the seconds of each turn, which lie between two
/// tokens of each answer.
fn gaps_beside_a_long_prompt(machine: Machine) -> Vec<f32> {
    let (mut runtime, log) = runtime_on(machine, 8192, None);
    let wanted = Sampling {
        max_tokens: Some(2000),
        temperature: Some(0.0),
        ignore_eos: true,
        ..Sampling::default()
    };
    let answers: [Asked; ANSWERS] =
        std::array::from_fn(|n| ask_for(&mut runtime, n as u32, text(n as u32, 8), &wanted, false));
    let said = || answers.each_ref().map(|answer| answer.tokens().len());
    while said().contains(&0) {
        turn(&mut runtime, &log);
    }
    for _ in 0..20 {
        let works = turn(&mut runtime, &log);
        assert_eq!(works.len(), 1, "quiet: {works:?}");
    }
    let long = ask(&mut runtime, 99, text(99, PROMPT), 1);
    let (mut gaps, mut read) = (Vec::new(), 0);
    while long.tokens().is_empty() {
        let before = said();
        let chunk_max = runtime.pace.chunk(Lane::Long, ANSWERS, CHUNK_MAX);
        let works = turn(&mut runtime, &log);
        assert_eq!(said(), before.map(|tokens| tokens + 1), "a token for each answer");
        let ([(first, _), parts @ ..], true) = (&works[..], works.len() > 1) else {
            panic!("the prompt rests: {works:?}");
        };
        assert_eq!(*first, Work::Step(ANSWERS));
        for (work, _) in parts {
            match *work {
                Work::Part(Lane::Long, Part::Attention(0), tokens) => {
                    assert!(tokens <= chunk_max, "{tokens} of {chunk_max}");
                    read += tokens;
                }
                Work::Part(Lane::Long, _, tokens) => assert!(tokens <= CHUNK_MAX),
                other => panic!("{other:?}"),
            }
        }
        gaps.push(works.iter().map(|(_, seconds)| seconds).sum());
    }
    assert_eq!(read, PROMPT as usize, "every token is read, and once");
    gaps
}

#[test]
fn answers_go_on_in_every_turn_while_a_long_prompt_is_read() {
    // Usual parts; tokens that are dear; parts that are dear whatever their tokens; and a machine that reads a largest
    // chunk, of all two layers, between two tokens.
    for part in [[0.001, 2e-5], [0.0, 2e-4], [0.006, 2e-5], [0.0002, 1e-6]] {
        let machine = Machine {
            step: [0.012, 0.002],
            part,
        };
        let quiet = machine.takes(Work::Step(ANSWERS));
        let gaps = gaps_beside_a_long_prompt(machine);
        let most = gaps.iter().copied().fold(0.0, f32::max);
        assert!(
            most < 2.0 * quiet,
            "{most} s between tokens, not {quiet} s: {machine:?}"
        );
        let mean = gaps.iter().sum::<f32>() / gaps.len() as f32;
        let at_best = gaps.len() == PROMPT as usize / CHUNK_MAX;
        assert!(
            mean > 1.3 * quiet || at_best,
            "the prompt could have more time than {mean} s: {machine:?}"
        );
    }
}

const ANSWER: usize = 800;

/// One answer of [`ANSWER`] tokens.
struct Answer {
    tokens: Vec<u32>,
    /// Rows of each of its steps.
    rows: Vec<usize>,
    seconds: f32,
}

impl Answer {
    /// Draft tokens from step `from` on.
    fn drafted(&self, from: usize) -> usize {
        self.rows[from..].iter().map(|rows| rows - 1).sum()
    }
}

/// Asks for it alone, with drafts or without; `draft_cost` as in [`Options`].
fn answer(machine: Machine, wanted: &Sampling, drafts: bool, draft_cost: Option<f32>) -> Answer {
    let (mut runtime, log) = runtime_on(machine, 2048, draft_cost);
    let wanted = Sampling {
        max_tokens: Some(ANSWER as u32),
        ignore_eos: true,
        seed: Some(1),
        speculation: Some(drafts),
        ..wanted.clone()
    };
    let asked = ask_for(&mut runtime, 1, text(1, 200), &wanted, false);
    let mut rows = Vec::new();
    while !asked.is_over() {
        let works = turn(&mut runtime, &log);
        rows.extend(works.iter().filter_map(|(work, _)| match work {
            Work::Step(rows) => Some(*rows),
            Work::Part(..) => None,
        }));
    }
    Answer {
        tokens: asked.tokens(),
        seconds: rows.iter().map(|&rows| machine.takes(Work::Step(rows))).sum(),
        rows,
    }
}

/// Machines on which a row more costs from a twentieth of a token's time to all of it.
const ROWS: [[f32; 2]; 4] = [[0.019, 0.001], [0.015, 0.005], [0.010, 0.010], [0.0, 0.020]];

fn with_rows(step: [f32; 2]) -> Machine {
    Machine {
        step,
        part: [0.001, 2e-5],
    }
}

/// What drafts may cost where none comes true, as a share of the time: 3% are promised.
const LOSS_MAX: f32 = 0.02;

#[test]
fn drafts_that_do_not_come_true_are_left_off_and_cost_next_to_nothing() {
    // Few tokens to choose from, so that every pair stood before, and none predicts what follows.
    let noise = Sampling {
        temperature: Some(5.0),
        top_k: Some(6),
        ..Sampling::default()
    };
    let eager = answer(with_rows(ROWS[0]), &noise, true, Some(0.0));
    assert!(eager.drafted(0) > 2 * ANSWER, "there is much to draft from");
    for machine in ROWS.map(with_rows) {
        let plain = answer(machine, &noise, false, None);
        let drafted = answer(machine, &noise, true, None);
        assert_eq!((plain.drafted(0), &plain.tokens), (0, &drafted.tokens));
        let loss = drafted.seconds / plain.seconds - 1.0;
        assert!(loss < LOSS_MAX, "{loss} of the time is lost: {machine:?}");
        // Not only in all: the second half has learned, and hardly tries.
        let half = drafted.rows.len() / 2;
        let late = drafted.drafted(half);
        let cost = machine.step[1] * late as f32;
        let time = machine.takes(Work::Step(1)) * (drafted.rows.len() - half) as f32;
        assert!(
            cost < LOSS_MAX * time,
            "{late} drafted in the second half: {machine:?}"
        );
        assert!(drafted.drafted(0) > 0, "nothing was tried: {machine:?}");
    }
}

#[test]
fn drafts_that_come_true_gain_what_rows_cost_less_than_steps() {
    let greedy = Sampling {
        temperature: Some(0.0),
        ..Sampling::default()
    };
    // It soon says the same again and again.
    for (step, share) in ROWS.into_iter().zip([0.3, 0.55, 0.85, 1.0 + LOSS_MAX]) {
        let machine = with_rows(step);
        let plain = answer(machine, &greedy, false, None);
        let drafted = answer(machine, &greedy, true, None);
        assert_eq!(plain.tokens, drafted.tokens);
        let (before, now) = (plain.seconds, drafted.seconds);
        assert!(
            now < before * share,
            "{now} s, without drafts {before} s: {machine:?}"
        );
    }
}
