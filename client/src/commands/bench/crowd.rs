//! How long running answers wait for their next token while a long prompt is read. Invariant: only the time counts in which all
//! of them run, and a wait that has no end in that time counts as far as it got.
use super::run::{PROMPT_TOKENS, Runner, each_token, refuse_error};
use crate::exit::Failure;
use crate::http::CallError;
use hyprstream_protocol::ErrorCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How many answer.
pub const STREAMS: usize = 4;
/// Tokens of each answer before anything counts, and those of the quiet time.
const FIRST_TOKENS: usize = 3;
const QUIET_TOKENS: usize = 40;
/// Tokens that an answer has at most: more than come while the prompt is read, unless that takes minutes.
const ANSWER_TOKENS_MAX: u32 = 4000;

/// What 19 of 20 tokens come within, after the one before: milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gaps {
    /// While nothing else runs.
    pub quiet: f64,
    /// While a long prompt is read.
    pub busy: f64,
}

enum Said {
    Token(usize, Instant),
    Over(Result<(), CallError>),
}

impl Runner<'_> {
    /// The longest prompt that the daemon takes: so many tokens, or half as many as often as it must be. Its KV cache may be shorter
    /// than the model's context.
    pub fn longest(&self, most: u32) -> Result<u32, Failure> {
        let mut tokens = most;
        while !self.takes(tokens)? && tokens > PROMPT_TOKENS {
            tokens /= 2;
        }
        Ok(tokens)
    }

    /// Whether such a prompt is begun; it is given up then.
    fn takes(&self, tokens: u32) -> Result<bool, Failure> {
        let client = self.session.client()?;
        let first = match client.events("/generate", &self.request(tokens, 1)) {
            Ok(mut events) => events.next().map_or(Ok(()), |line| refuse_error(line?.event)),
            Err(error) => Err(error),
        };
        match first {
            Err(CallError::Daemon(body)) if body.code == ErrorCode::ContextExceeded => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    /// The gaps, with a prompt of `long` tokens; `None` where the answers did not last. An answer ends with a context of `context`.
    pub fn gaps(&self, long: u32, context: u32) -> Result<Option<Gaps>, Failure> {
        let answer = context.saturating_sub(PROMPT_TOKENS).min(ANSWER_TOKENS_MAX);
        let mut calls = Vec::new();
        for _ in 0..STREAMS {
            calls.push((self.session.client()?, self.request(PROMPT_TOKENS, answer)));
        }
        let late = (self.session.client()?, self.request(long, 1));
        let found = thread::scope(|scope| {
            let (send, receive) = channel();
            let follow = |who: usize, (client, request), send: Sender<Said>| {
                scope.spawn(move || {
                    // Nobody listens any more where all is measured: the answer is given up.
                    let tell = |at| send.send(Said::Token(who, at)).is_ok();
                    let end = each_token(client, &request, tell);
                    let _ = send.send(Said::Over(end.map(drop)));
                });
            };
            for (who, call) in calls.into_iter().enumerate() {
                follow(who, call, send.clone());
            }
            let mut stamps = Stamps::new(receive);
            if !stamps.until(|all| all.iter().all(|one| one.len() > FIRST_TOKENS))? {
                return Ok(None);
            }
            let begin = Instant::now();
            let enough = FIRST_TOKENS + 1 + QUIET_TOKENS;
            if !stamps.until(|all| all.iter().all(|one| one.len() > enough))? {
                return Ok(None);
            }
            let sent = Instant::now();
            follow(STREAMS, late, send);
            stamps.until(|_| false)?;
            Ok(stamps.late.and_then(|late| stamps.gaps(begin, sent, late)))
        });
        found.map_err(|error: CallError| error.into())
    }
}

/// When tokens came.
struct Stamps {
    receive: Receiver<Said>,
    running: [Vec<Instant>; STREAMS],
    late: Option<Instant>,
}

impl Stamps {
    fn new(receive: Receiver<Said>) -> Stamps {
        Stamps {
            receive,
            running: Default::default(),
            late: None,
        }
    }

    /// Whether all of the running answers lasted until `enough` was true of their tokens, or the late one began.
    fn until(&mut self, enough: impl Fn(&[Vec<Instant>]) -> bool) -> Result<bool, CallError> {
        while self.late.is_none() && !enough(&self.running) {
            match self.receive.recv() {
                Ok(Said::Token(who, at)) => match self.running.get_mut(who) {
                    Some(stamps) => stamps.push(at),
                    None => self.late = Some(at),
                },
                Ok(Said::Over(Err(error))) => return Err(error),
                Ok(Said::Over(Ok(()))) | Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    fn gaps(&self, begin: Instant, sent: Instant, late: Instant) -> Option<Gaps> {
        Some(Gaps {
            quiet: p95(between(&self.running, begin, sent))?,
            busy: p95(between(&self.running, sent, late))?,
        })
    }
}

/// Milliseconds before each token that came in a time. What a stream still waits for at its end counts as far as it got, where
/// that is longer than all gaps of the stream: nobody could hide a long wait behind the end.
fn between(streams: &[Vec<Instant>], begin: Instant, end: Instant) -> Vec<f64> {
    let ms = |gap: Duration| gap.as_secs_f64() * 1e3;
    let mut gaps = Vec::new();
    for stamps in streams {
        let pairs = stamps.iter().zip(stamps.iter().skip(1));
        let inside = pairs.filter(|(_, at)| **at > begin && **at <= end);
        let mut own: Vec<f64> = inside.map(|(last, at)| ms(at.duration_since(*last))).collect();
        let Some(last) = stamps.iter().rfind(|at| **at <= end) else {
            continue;
        };
        let open = ms(end.duration_since(*last));
        if own.iter().all(|gap| *gap < open) {
            own.push(open);
        }
        gaps.append(&mut own);
    }
    gaps
}

/// What 19 of 20 are not above.
fn p95(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let most = (values.len() * 19).div_ceil(20);
    values.get(most.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_belong_to_the_time_in_which_they_end() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let all = |list: &[u64]| list.iter().map(|ms| at(*ms)).collect::<Vec<_>>();
        // The second one gets nothing from 200 ms on.
        let streams = [all(&[0, 100, 200, 290, 500]), all(&[0, 150, 199])];
        let round = |gaps: Vec<f64>| gaps.iter().map(|gap| gap.round()).collect::<Vec<_>>();
        assert_eq!(
            round(between(&streams, at(0), at(200))),
            [100.0, 100.0, 150.0, 49.0]
        );
        assert_eq!(round(between(&streams, at(200), at(500))), [90.0, 210.0, 301.0]);
        assert!(between(&[Vec::new()], at(0), at(9)).is_empty());
        // One token that was on its way, and then nothing until the end, or beyond it.
        assert_eq!(
            round(between(&[all(&[200, 205])], at(200), at(500))),
            [5.0, 295.0]
        );
        assert_eq!(
            round(between(&[all(&[200, 205, 900])], at(200), at(500))),
            [5.0, 295.0]
        );
    }

    #[test]
    fn one_of_twenty_may_be_longer() {
        assert_eq!(p95(Vec::new()), None);
        assert_eq!(p95(vec![7.0]), Some(7.0));
        let mut values: Vec<f64> = (0..40).map(f64::from).collect();
        assert_eq!(p95(values.clone()), Some(37.0));
        values.reverse();
        assert_eq!(p95(values), Some(37.0));
    }
}
