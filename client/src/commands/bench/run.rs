//! Single measurements of `hyp bench`. Invariant: a time is taken when a token arrives, and a speed of several streams only
//! counts the time in which all of them ran.
use crate::commands::Session;
use crate::exit::Failure;
use crate::http::{CallError, Client};
use hyprstream_protocol::{Event, GenerateRequest, Priority, Prompt, Sampling, Timings};
use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Tokens of each answer of which the speed is taken.
pub const ANSWER_TOKENS: u32 = 32;
/// Tokens of the prompts of those answers.
pub const PROMPT_TOKENS: u32 = 16;

/// Least time of which a speed is taken: tokens that are read together seem to have come at once, milliseconds after the first.
const LEAST: Duration = Duration::from_millis(20);

/// Makes measurements of one model.
pub struct Runner<'a> {
    /// Where the daemon is.
    pub session: &'a Session,
    /// Which model.
    pub model: &'a str,
    /// What it reads.
    pub prompts: Prompts,
    /// How long its answers are.
    pub answer_tokens: u32,
}

impl Runner<'_> {
    /// Seconds from a prompt of so many tokens to the first token of its answer.
    pub fn first(&self, prompt: u32) -> Result<f64, Failure> {
        let request = self.request(prompt, 1);
        let client = self.session.client()?;
        let sent = Instant::now();
        let answer = answer(client, &request)?;
        match answer.stamps.first() {
            Some(stamp) => Ok(stamp.duration_since(sent).as_secs_f64()),
            None => Err(silent().into()),
        }
    }

    /// Tokens a second of so many streams together, or why there is no such speed.
    pub fn decode(&self, streams: u32) -> Result<Result<f64, Apart>, Failure> {
        let mut found = Err(Apart::Ended);
        for longer in [1, 2, 4] {
            found = self.decode_tokens(streams, longer * self.answer_tokens)?;
            // Prompts are read between the tokens of those that answer already, who may be done before the last one is read.
            if !matches!(found, Err(Apart::Ended | Apart::Short)) {
                break;
            }
        }
        Ok(found)
    }

    fn decode_tokens(&self, streams: u32, tokens: u32) -> Result<Result<f64, Apart>, Failure> {
        let mut calls = Vec::new();
        for _ in 0..streams {
            let prompt = PROMPT_TOKENS.min(self.answer_tokens);
            calls.push((self.session.client()?, self.request(prompt, tokens)));
        }
        let answers = thread::scope(|scope| {
            let running: Vec<_> = calls
                .into_iter()
                .map(|(client, request)| scope.spawn(move || answer(client, &request)))
                .collect();
            let join = |one: thread::ScopedJoinHandle<'_, _>| one.join().unwrap_or_else(|_| Err(silent()));
            running.into_iter().map(join).collect::<Result<Vec<_>, _>>()
        })?;
        Ok(speed(&answers))
    }

    /// For an answer of so many tokens to a new prompt.
    pub fn request(&self, prompt: u32, answer: u32) -> GenerateRequest {
        GenerateRequest {
            model: Some(self.model.to_owned()),
            prompt: Prompt::Tokens(self.prompts.next(prompt)),
            echo: false,
            priority: Priority::default(),
            sampling: Sampling {
                max_tokens: Some(answer),
                ignore_eos: true,
                temperature: Some(0.0),
                // A greedy answer to random tokens soon goes in circles, where guessing ahead flatters.
                speculation: Some(false),
                ..Sampling::default()
            },
        }
    }
}

/// Why no time could be taken in which all streams ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Apart {
    /// Some waited for their turn.
    Waited,
    /// The first one ended before the last one began.
    Ended,
    /// They all ran, for less than [`LEAST`].
    Short,
}

/// An answer as it came.
#[derive(Debug, Default)]
struct Answer {
    /// When each of its tokens came.
    stamps: Vec<Instant>,
    /// What the daemon says of its time.
    timings: Timings,
}

/// Tokens a second of all streams, between the moment when the last of them has begun and that when the first one ends.
fn speed(answers: &[Answer]) -> Result<f64, Apart> {
    together(answers).unwrap_or_else(|| {
        // What waited for a turn waited for another answer's end: longer than its own prompt takes.
        let waited = |answer: &Answer| answer.timings.queue_ms > answer.timings.prefill_ms;
        Err(match answers.iter().any(waited) {
            true => Apart::Waited,
            false => Apart::Ended,
        })
    })
}

/// `None` if they did not all run at once.
fn together(answers: &[Answer]) -> Option<Result<f64, Apart>> {
    // A stream's first token belongs to its prompt.
    let begin = answers.iter().map(|answer| answer.stamps.first()).max()??;
    let end = answers.iter().map(|answer| answer.stamps.last()).min()??;
    let time = end.checked_duration_since(*begin)?;
    let tokens = answers
        .iter()
        .flat_map(|answer| &answer.stamps)
        .filter(|stamp| *stamp > begin && *stamp <= end)
        .count();
    (tokens > 0).then(|| match time < LEAST {
        true => Err(Apart::Short),
        false => Ok(tokens as f64 / time.as_secs_f64()),
    })
}

fn answer(client: Client, request: &GenerateRequest) -> Result<Answer, CallError> {
    let mut stamps = Vec::new();
    let timings = each_token(client, request, |stamp| {
        stamps.push(stamp);
        true
    })?;
    Ok(Answer { stamps, timings })
}

/// Tells when each token of an answer came, until its end or until nobody wants to know.
pub fn each_token(
    client: Client,
    request: &GenerateRequest,
    mut tell: impl FnMut(Instant) -> bool,
) -> Result<Timings, CallError> {
    for line in client.events("/generate", request)? {
        match line?.event {
            Event::Token(token) if token.token.is_some() => {
                if !tell(Instant::now()) {
                    break;
                }
            }
            Event::Done { timings, .. } => return Ok(timings),
            event => refuse_error(event)?,
        }
    }
    Ok(Timings::default())
}

/// An `error` event as an error.
pub fn refuse_error(event: Event) -> Result<(), CallError> {
    match event {
        Event::Error(body) => Err(CallError::Daemon(body)),
        _ => Ok(()),
    }
}

fn silent() -> CallError {
    CallError::Garbage {
        why: "an answer has no token".to_owned(),
    }
}

/// Prompts of random token ids.
pub struct Prompts {
    vocab: u32,
    state: Cell<u64>,
}

impl Prompts {
    /// Ids below `vocab`; others at every call of the program.
    pub fn new(vocab: u32) -> Prompts {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(1, |since| since.as_nanos() as u64);
        Prompts {
            vocab,
            state: Cell::new(now | 1),
        }
    }

    fn next(&self, tokens: u32) -> Vec<u32> {
        (0..tokens).map(|_| self.id()).collect()
    }

    /// Marsaglia's xorshift64.
    fn id(&self) -> u32 {
        let mut x = self.state.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.state.set(x);
        ((x >> 32) % u64::from(self.vocab)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_time_when_all_run_counts() {
        let zero = Instant::now();
        let at = |list: &[u64]| Answer {
            stamps: list.iter().map(|ms| zero + Duration::from_millis(*ms)).collect(),
            timings: Timings::default(),
        };
        // Both run from 100 ms to 300 ms: two tokens and three.
        let two = [at(&[0, 100, 200, 300]), at(&[100, 150, 250, 300, 900])];
        assert!((speed(&two).unwrap() - 25.0).abs() < 1e-9);
        // One after the other.
        let mut apart = [at(&[0, 100]), at(&[200, 300])];
        assert_eq!(speed(&apart), Err(Apart::Ended));
        apart[1].timings = Timings {
            queue_ms: 150.0,
            prefill_ms: 50.0,
            ..Timings::default()
        };
        assert_eq!(speed(&apart), Err(Apart::Waited));
        assert_eq!(speed(&[at(&[0, 100]), Answer::default()]), Err(Apart::Ended));
        assert_eq!(speed(&[at(&[5])]), Err(Apart::Ended));
        assert_eq!(speed(&[at(&[5, 8, 8, 8])]), Err(Apart::Short));
    }

    #[test]
    fn prompts_are_new_and_in_range() {
        let prompts = Prompts::new(1000);
        let (a, b) = (prompts.next(64), prompts.next(64));
        assert_ne!(a, b);
        assert!(a.iter().chain(&b).all(|id| *id < 1000));
    }
}
