//! `hyp bench`: how fast a model is on this machine, as a program at the socket sees it. Invariant: no answer is made of what an
//! earlier one left behind: every prompt is new from its first token on, and every answer has the length that was asked for.
mod figures;
mod run;

use super::Session;
use crate::exit::Failure;
use crate::flags::BenchFlags;
use crate::http::{CallError, segment};
use crate::print::Out;
use figures::{Figure, Unit};
use hyprstream_protocol::{ErrorBody, ErrorCode, LoadRequest, ModelDetail, Models, Status, UnloadRequest};
use run::{Prompts, Runner};

/// Tokens of the prompt whose reading is measured.
const PREFILL_TOKENS: u32 = 512;
/// Tokens of the prompt whose first token is waited for.
const FIRST_TOKENS: u32 = 128;
/// How many answer together.
const STREAMS: [u32; 4] = [1, 4, 8, 16];
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
        // The first one may have to pack the weights, the second one finds them packed.
        for name in ["load, first", "load, again"] {
            unload(session, &model.model.name)?;
            let seconds = load(session, &model.model.name)?;
            figures.push(Figure::new(name, Unit::Milliseconds, [seconds * 1e3]));
        }
    }
    figures.extend(measure(session, &model, flags.runs)?);
    let after = self::status(session)?;
    let resident = after.memory.resident as f64 / MEGABYTE;
    figures.push(Figure::new("memory of the daemon", Unit::Megabytes, [resident]));

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
    out.table(&figures::table(&figures))
}

/// The figures that are taken several times, in turn, so that a slow moment of the machine hits all of them.
fn measure(session: &Session, model: &ModelDetail, runs: u8) -> Result<Vec<Figure>, Failure> {
    // A short context has room for the answers too.
    let room = model.model.context.unwrap_or(u32::MAX) / 2;
    let (prefill, first) = (PREFILL_TOKENS.min(room), FIRST_TOKENS.min(room));
    let runner = Runner {
        session,
        model: &model.model.name,
        prompts: Prompts::new(vocab(model)?),
        answer_tokens: run::ANSWER_TOKENS.min(room).max(2),
    };
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
    session.spinner.say("warming up");
    runner.first(first)?;
    for run in 1..=runs {
        let mut values = Vec::new();
        session.spinner.say(format!("run {run} of {runs}: prompts"));
        values.push(Some(f64::from(prefill) / runner.first(prefill)?));
        values.push(Some(runner.first(first)? * 1e3));
        for streams in STREAMS {
            session
                .spinner
                .say(format!("run {run} of {runs}: {streams} at once"));
            values.push(runner.decode(streams)?);
        }
        for (figure, value) in figures.iter_mut().zip(values) {
            figure.runs.extend(value);
        }
    }
    Ok(figures)
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

/// Seconds that a load takes.
fn load(session: &Session, model: &str) -> Result<f64, Failure> {
    session.spinner.say(format!("loading {model}"));
    let request = LoadRequest {
        model: model.to_owned(),
    };
    let client = session.client()?;
    let start = std::time::Instant::now();
    for line in client.events("/load", &request)? {
        run::refuse_error(line?.event)?;
    }
    Ok(start.elapsed().as_secs_f64())
}
