//! `hyp bench`: how fast a model is on this machine, as a program at the socket sees it. Invariant: no answer is made of what an
//! earlier one left behind: every prompt is new from its first token on, and every answer has the length that was asked for.
mod crowd;
mod energy;
mod figures;
mod run;

use super::Session;
use crate::exit::Failure;
use crate::flags::BenchFlags;
use crate::http::{CallError, segment};
use crate::print::Out;
use energy::Meter;
use figures::{Figure, Unit};
use hyprstream_protocol::{
    ErrorBody, ErrorCode, Event, LoadRequest, LoadStage, ModelDetail, Models, Status, UnloadRequest,
};
use run::{Apart, Prompts, Runner};
use std::thread;
use std::time::{Duration, Instant};

/// Tokens of the prompt whose reading is measured.
const PREFILL_TOKENS: u32 = 512;
/// Tokens of the prompt whose first token is waited for.
const FIRST_TOKENS: u32 = 128;
/// Tokens of the prompt that is read while others answer.
const LONG_TOKENS: u32 = 4096;
/// How many answer together.
const STREAMS: [u32; 4] = [1, 4, 8, 16];
/// The context of a model that does not tell it.
const CONTEXT: u32 = 4096;
/// Bytes of a megabyte, as disks are sold.
const MEGABYTE: f64 = 1e6;

/// Measures and prints.
pub fn run(session: &Session, flags: BenchFlags) -> Result<(), Failure> {
    session.spinner.say("waiting for the daemon");
    let model = model(session, flags.model.model)?;
    let status = status(session)?;
    let mut figures = Vec::new();
    if status.running > 0 || status.queued > 0 {
        session.remark("others use the daemon right now: the figures are lower than they could be");
        load(session, &model.model.name)?;
    } else {
        figures.extend(loads(session, &model.model.name)?);
    }
    figures.extend(measure(session, &model, flags.runs)?);
    let after = self::status(session)?;
    figures.extend(memory(&after));

    session.spinner.clear();
    let mut out = Out::new();
    if session.flags.json {
        return out.line(&figures::json(&model.model, &after, &figures).to_string());
    }
    let format = model.model.format.as_deref().unwrap_or("?");
    session.remark(&format!(
        "{}, {format}, {} threads, {}, hyprstream {}",
        model.model.name, after.threads, after.isa, after.version
    ));
    out.table(&figures::table(&figures))?;
    if out.is_terminal() {
        for remark in figures.iter().filter_map(Figure::remark) {
            out.line(&remark)?;
        }
    }
    Ok(())
}

/// Two loads. A first one packs the weights; where that is done already, both are later ones.
fn loads(session: &Session, model: &str) -> Result<[Figure; 2], Failure> {
    let mut first = Figure::new("load, first", Unit::Milliseconds, []);
    let mut again = Figure::new("load, again", Unit::Milliseconds, []);
    for turn in 0..2 {
        unload(session, model)?;
        let (seconds, packed) = load(session, model)?;
        match (turn, packed) {
            (0, true) => first.add(Ok(seconds * 1e3)),
            (0, false) => {
                first.add(Err("nothing had to be packed: both loads were later ones"));
                again.add(Ok(seconds * 1e3));
            }
            _ => again.add(Ok(seconds * 1e3)),
        }
    }
    Ok([first, again])
}

fn memory(status: &Status) -> [Figure; 2] {
    let megabytes = |bytes: u64| bytes as f64 / MEGABYTE;
    let mut all = Figure::new("memory of the daemon", Unit::Megabytes, []);
    all.add(Ok(megabytes(status.memory.resident)));
    let mut private = Figure::new("private memory of the daemon", Unit::Megabytes, []);
    let bytes = status.memory.private;
    private.add(bytes.map(megabytes).ok_or("this daemon does not tell it"));
    [all, private]
}

/// The figures that are taken several times, in turn, so that a slow moment of the machine hits all of them.
fn measure(session: &Session, model: &ModelDetail, runs: u8) -> Result<Vec<Figure>, Failure> {
    let context = model.model.context.unwrap_or(CONTEXT);
    // A short context has room for the answers too.
    let room = context / 2;
    let (prefill, first) = (PREFILL_TOKENS.min(room), FIRST_TOKENS.min(room));
    let runner = Runner {
        session,
        model: &model.model.name,
        prompts: Prompts::new(vocab(model)?),
        answer_tokens: run::ANSWER_TOKENS.min(room).max(2),
    };
    session.spinner.say("warming up");
    runner.first(first)?;
    let long = runner.longest(LONG_TOKENS.min(room))?;
    await_end(session)?;
    let mut figures = vec![
        Figure::new(format!("prefill {prefill}"), Unit::TokensPerSecond, []),
        Figure::new(format!("first token after {first}"), Unit::Milliseconds, []),
    ];
    for streams in STREAMS {
        let name = match streams {
            1 => "decode 1 stream".to_owned(),
            many => format!("decode {many} streams"),
        };
        figures.push(Figure::new(name, Unit::TokensPerSecond, []));
    }
    figures.extend([
        Figure::new("energy, 16 streams", Unit::JoulesPerToken, []),
        Figure::new("gap of 4 streams, p95", Unit::Milliseconds, []),
        Figure::new(format!("gap while {long} are read, p95"), Unit::Milliseconds, []),
        Figure::new("gap, ratio of the two", Unit::Times, []),
    ]);
    for run in 1..=runs {
        let say = |what: &str| session.spinner.say(format!("run {run} of {runs}: {what}"));
        say("prompts");
        let mut values = vec![
            Ok(f64::from(prefill) / runner.first(prefill)?),
            Ok(runner.first(first)? * 1e3),
        ];
        let mut energy = Err(NO_METER);
        for streams in STREAMS {
            say(&format!("{streams} at once"));
            let speed;
            // What remains is that of the last of them.
            (speed, energy) = decode(&runner, streams)?;
            values.push(speed);
        }
        values.push(energy);
        say(&format!("{} at once, and {long} tokens to read", crowd::STREAMS));
        let gaps = runner.gaps(long, context)?;
        await_end(session)?;
        let gaps = gaps.ok_or("the answers ended before the prompt was read");
        values.extend([
            gaps.map(|gaps| gaps.quiet),
            gaps.map(|gaps| gaps.busy),
            gaps.map(|gaps| gaps.busy / gaps.quiet),
        ]);
        for (figure, value) in figures.iter_mut().zip(values) {
            figure.add(value);
        }
    }
    Ok(figures)
}

/// Answers that were given up end with the daemon's step; what is measured next shall not meet them. Others' may go on.
fn await_end(session: &Session) -> Result<(), Failure> {
    for _ in 0..50 {
        let status = status(session)?;
        if status.running == 0 && status.queued == 0 {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Why there is no energy.
const NO_METER: &str = "no counters, or none that this user may read";

type Value = Result<f64, &'static str>;

/// Tokens a second of so many streams, and joules a token.
fn decode(runner: &Runner<'_>, streams: u32) -> Result<(Value, Value), Failure> {
    let (before, start) = (Meter::read(), Instant::now());
    let speed = runner.decode(streams)?.map_err(|apart| match apart {
        Apart::Waited => "they never ran all at once: the daemon let some wait (sequences_max, kv_tokens, or others' requests)",
        Apart::Ended => "they never ran all at once: the first ended before the last began",
        Apart::Short => "it was over too soon to be timed",
    });
    let seconds = start.elapsed().as_secs_f64();
    let joules = before.and_then(|before| Some(Meter::read()?.since(&before)));
    let energy = joules
        .ok_or(NO_METER)
        .and_then(|joules| Ok(joules / seconds / speed?));
    Ok((speed, energy))
}

/// What is to be measured: the named model, else the default one.
fn model(session: &Session, wanted: Option<String>) -> Result<ModelDetail, Failure> {
    let name = match wanted {
        Some(name) => name,
        None => {
            let models: Models = session.client()?.get("/models")?.parse()?;
            let none = || ErrorBody::new(ErrorCode::ModelNotFound, "there is no model to measure");
            models.default.ok_or_else(|| CallError::Daemon(none()))?
        }
    };
    let path = format!("/models/{}", segment(&name));
    Ok(session.client()?.get(&path)?.parse()?)
}

fn status(session: &Session) -> Result<Status, Failure> {
    Ok(session.client()?.get("/status")?.parse()?)
}

/// How many token ids there are to make prompts of.
fn vocab(model: &ModelDetail) -> Result<u32, Failure> {
    let ids = model.shape.get("vocab").and_then(serde_json::Value::as_u64);
    match ids.and_then(|ids| u32::try_from(ids).ok()) {
        Some(ids) if ids > 0 => Ok(ids),
        _ => {
            let reason = model
                .model
                .reason
                .as_deref()
                .unwrap_or("its vocabulary is unknown");
            let error = ErrorBody::new(ErrorCode::ModelBroken, reason);
            Err(CallError::Daemon(error).into())
        }
    }
}

fn unload(session: &Session, model: &str) -> Result<(), Failure> {
    let request = UnloadRequest {
        model: model.to_owned(),
    };
    session.client()?.post("/unload", &request)?;
    Ok(())
}

/// Seconds that a load takes, and whether weights were packed in it.
fn load(session: &Session, model: &str) -> Result<(f64, bool), Failure> {
    session.spinner.say(format!("loading {model}"));
    let request = LoadRequest {
        model: model.to_owned(),
    };
    let client = session.client()?;
    let (start, mut packed) = (Instant::now(), false);
    for line in client.events("/load", &request)? {
        let event = line?.event;
        packed |= matches!(
            event,
            Event::Loading {
                stage: LoadStage::Packing,
                ..
            }
        );
        run::refuse_error(event)?;
    }
    Ok((start.elapsed().as_secs_f64(), packed))
}
