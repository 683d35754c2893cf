//! One step of sampling: penalties, temperature, top-k, top-p, min-p, draw. The order is that of transformers' logits
//! processors. Invariant: nothing is allocated once a sampler's buffers have seen a full vocabulary.
use super::SamplingParams;
use super::random::Random;
use hyprstream_kernels::log_sum_exp;
use std::collections::HashMap;

/// Chooses tokens for one sequence.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    random: Random,
    /// How often each token in the penalties' window was generated; 0 for one of the prompt.
    counts: HashMap<u32, u32>,
}

/// A chosen token; log-probabilities are those of the model itself, before penalties and temperature.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chosen {
    /// Id.
    pub token: u32,
    /// Its log-probability, if asked for.
    pub logprob: Option<f32>,
    /// Alternatives, best first, if asked for.
    pub top: Vec<(u32, f32)>,
}

/// Buffers that the sequences of a model share.
pub type Candidates = Vec<(u32, f32)>;

impl Sampler {
    /// A sampler at the beginning of its random numbers.
    pub fn new(params: SamplingParams) -> Sampler {
        let random = Random::new(params.seed);
        Sampler {
            params,
            random,
            counts: HashMap::new(),
        }
    }

    /// What it was made from.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Chooses the token that follows `tokens`, of which the first `prompt` were given. `logits` `[vocab]` are changed.
    /// `None` if no logit is finite.
    pub fn choose(
        &mut self,
        logits: &mut [f32],
        tokens: &[u32],
        prompt: usize,
        candidates: &mut Candidates,
    ) -> Option<Chosen> {
        let mut chosen = Chosen::default();
        let normalizer = match self.params.logprobs {
            Some(_) => log_sum_exp(logits)?,
            None => 0.0,
        };
        if let Some(top) = self.params.logprobs {
            chosen.top = top_logprobs(logits, normalizer, top as usize, candidates);
        }
        let changes = self.params.logprobs.is_some() && self.penalizes();
        let raw = changes.then(|| RawLogits::of(logits, tokens, self.params.repeat_last));
        self.penalize(logits, tokens, prompt);
        chosen.token = if self.params.temperature == 0.0 {
            argmax(logits)?
        } else {
            self.draw(logits, candidates)?
        };
        if self.params.logprobs.is_some() {
            let before = raw.and_then(|raw| raw.get(chosen.token));
            let logit = before.unwrap_or_else(|| logits[chosen.token as usize]);
            chosen.logprob = Some((f64::from(logit) - normalizer) as f32);
        }
        Some(chosen)
    }

    /// Whether any penalty is on.
    fn penalizes(&self) -> bool {
        let p = &self.params;
        p.repeat_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0
    }

    fn penalize(&mut self, logits: &mut [f32], tokens: &[u32], prompt: usize) {
        if !self.penalizes() {
            return;
        }
        let p = &self.params;
        self.counts.clear();
        let first = window_start(tokens.len(), p.repeat_last);
        for (at, &token) in tokens.iter().enumerate().skip(first) {
            *self.counts.entry(token).or_default() += u32::from(at >= prompt);
        }
        for (&token, &generated) in &self.counts {
            let Some(logit) = logits.get_mut(token as usize) else {
                continue;
            };
            *logit = if *logit > 0.0 {
                *logit / p.repeat_penalty
            } else {
                *logit * p.repeat_penalty
            };
            if generated > 0 {
                *logit -= p.presence_penalty + p.frequency_penalty * generated as f32;
            }
        }
    }

    fn draw(&mut self, logits: &[f32], candidates: &mut Candidates) -> Option<u32> {
        let p = &self.params;
        // Below this share of the best weight a token can be drawn in less than one of 10^8 draws; dropping those first
        // keeps the work that follows short.
        let least = p.min_p.max(1e-9);
        let (_, best) = largest(logits)?;
        candidates.clear();
        // A little lower than asked for: the weights themselves decide below.
        at_least(logits, best + p.temperature * (least.ln() - 0.01), candidates);
        if p.top_k > 0 && p.top_k < candidates.len() {
            candidates.select_nth_unstable_by(p.top_k - 1, likelier);
            candidates.truncate(p.top_k);
        }
        for c in candidates.iter_mut() {
            c.1 = ((c.1 - best) / p.temperature).exp();
        }
        candidates.retain(|c| c.1 >= least);
        candidates.sort_unstable_by(likelier);
        if p.top_p < 1.0 {
            keep_top_p(candidates, f64::from(p.top_p));
        }
        let total: f64 = candidates.iter().map(|c| f64::from(c.1)).sum();
        let mut rest = self.random.unit() * total;
        for c in candidates.iter() {
            rest -= f64::from(c.1);
            if rest < 0.0 {
                return Some(c.0);
            }
        }
        candidates.last().map(|c| c.0)
    }
}

/// Likeliest first; equal ones by id, so that the order never depends on the sorting method.
fn likelier(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn keep_top_p(candidates: &mut Candidates, top_p: f64) {
    let total: f64 = candidates.iter().map(|c| f64::from(c.1)).sum();
    let mut sum = 0.0;
    let enough = candidates.iter().position(|c| {
        sum += f64::from(c.1);
        sum >= top_p * total
    });
    candidates.truncate(enough.map_or(candidates.len(), |at| at + 1));
}

fn window_start(len: usize, last: usize) -> usize {
    if last == 0 { 0 } else { len.saturating_sub(last) }
}

/// Logits that are looked at together: enough for vectors, and few enough to look at again one by one.
const CHUNK: usize = 64;

/// The first chunk that has the largest logit that is a number, and that logit; `None` if none is a number.
fn largest(logits: &[f32]) -> Option<(usize, f32)> {
    let mut best = (0, f32::NEG_INFINITY);
    for (at, chunk) in logits.chunks(CHUNK).enumerate() {
        let of_chunk = largest_of_chunk(chunk);
        if of_chunk > best.1 {
            best = (at, of_chunk);
        }
    }
    best.1.is_finite().then_some(best)
}

/// The largest logit that is a number, or minus infinity. The compiler makes vectors of it.
fn largest_of_chunk(chunk: &[f32]) -> f32 {
    let larger = |best: f32, logit: f32| {
        // Not a number, or infinite: no.
        let logit = if logit.abs() < f32::INFINITY {
            logit
        } else {
            f32::NEG_INFINITY
        };
        if logit > best { logit } else { best }
    };
    let (lanes, rest) = chunk.as_chunks::<8>();
    let mut best = [f32::NEG_INFINITY; 8];
    for lane in lanes {
        for (best, &logit) in best.iter_mut().zip(lane) {
            *best = larger(*best, logit);
        }
    }
    best.into_iter()
        .chain(rest.iter().copied())
        .fold(f32::NEG_INFINITY, larger)
}

/// Adds the tokens whose logits are numbers and at least `floor`.
fn at_least(logits: &[f32], floor: f32, candidates: &mut Candidates) {
    for (at, chunk) in logits.chunks(CHUNK).enumerate() {
        if largest_of_chunk(chunk) >= floor {
            let wanted = |&(_, logit): &(usize, &f32)| logit.is_finite() && *logit >= floor;
            let found = chunk.iter().enumerate().filter(wanted);
            candidates.extend(found.map(|(i, &logit)| ((at * CHUNK + i) as u32, logit)));
        }
    }
}

/// The likeliest token; the smallest id among equals. `None` if no logit is a number.
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let (chunk, best) = largest(logits)?;
    let first = chunk * CHUNK;
    let at = logits[first..].iter().position(|&logit| logit == best)?;
    Some((first + at) as u32)
}

/// The `n` likeliest tokens and their log-probabilities.
pub fn top_logprobs(
    logits: &[f32],
    normalizer: f64,
    n: usize,
    candidates: &mut Candidates,
) -> Vec<(u32, f32)> {
    if n == 0 {
        return Vec::new();
    }
    candidates.clear();
    candidates.extend(
        logits
            .iter()
            .enumerate()
            .map(|(i, &l)| (i as u32, if l.is_nan() { f32::NEG_INFINITY } else { l })),
    );
    let n = n.min(candidates.len());
    if n < candidates.len() {
        candidates.select_nth_unstable_by(n, likelier);
    }
    let mut top: Vec<_> = candidates[..n]
        .iter()
        .map(|&(t, l)| (t, (f64::from(l) - normalizer) as f32))
        .collect();
    top.sort_unstable_by(likelier);
    top
}

/// The logits that penalties may change, as they were.
struct RawLogits(HashMap<u32, f32>);

impl RawLogits {
    fn of(logits: &[f32], tokens: &[u32], last: usize) -> RawLogits {
        let first = window_start(tokens.len(), last);
        RawLogits(
            tokens[first..]
                .iter()
                .filter_map(|&t| Some((t, *logits.get(t as usize)?)))
                .collect(),
        )
    }

    fn get(&self, token: u32) -> Option<f32> {
        self.0.get(&token).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyprstream_protocol::Sampling;

    fn sampler(wanted: Sampling) -> Sampler {
        let off = Sampling {
            temperature: Some(1.0),
            seed: Some(1),
            ..Sampling::default()
        };
        Sampler::new(SamplingParams::resolve(&wanted, &off).unwrap())
    }

    fn share_of(wanted: Sampling, logits: &[f32], token: u32) -> f64 {
        let mut s = sampler(wanted);
        let mut c = Candidates::new();
        let hits =
            (0..20_000).filter(|_| s.choose(&mut logits.to_vec(), &[], 0, &mut c).unwrap().token == token);
        hits.count() as f64 / 20_000.0
    }

    /// Probabilities 0.5, 0.25, 0.125, 0.125.
    fn logits() -> Vec<f32> {
        [0.5f32, 0.25, 0.125, 0.125].iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn likeliest_tokens_are_those_that_a_plain_search_finds() {
        let mut random = Random::new(7);
        for round in 0..2000 {
            // Few values, so that many are equal; some that are no numbers; lengths around those of chunks.
            let len = (random.unit() * 3.5 * CHUNK as f64) as usize;
            let logits: Vec<f32> = (0..len)
                .map(|_| match (random.unit() * 12.0) as i32 {
                    0 => f32::NAN,
                    1 => f32::INFINITY,
                    2 => f32::NEG_INFINITY,
                    v => (v - 6) as f32 * if round % 2 == 0 { 1.0 } else { -0.0 },
                })
                .collect();
            let numbers = || logits.iter().copied().enumerate().filter(|(_, l)| l.is_finite());
            let best = numbers().reduce(|a, b| if b.1 > a.1 { b } else { a });
            assert_eq!(argmax(&logits), best.map(|(i, _)| i as u32));
            let mut found = Candidates::new();
            at_least(&logits, 1.0, &mut found);
            let plain: Candidates = numbers()
                .filter(|(_, l)| *l >= 1.0)
                .map(|(i, l)| (i as u32, l))
                .collect();
            assert_eq!(found, plain);
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let all = Sampling::default();
        assert!((share_of(all.clone(), &logits(), 0) - 0.5).abs() < 0.02);
        assert!((share_of(all, &logits(), 3) - 0.125).abs() < 0.02);
        let hot = Sampling {
            temperature: Some(2.0),
            ..Sampling::default()
        };
        let weights: Vec<f64> = [0.5f64, 0.25, 0.125, 0.125].iter().map(|p| p.sqrt()).collect();
        assert!((share_of(hot, &logits(), 0) - weights[0] / weights.iter().sum::<f64>()).abs() < 0.02);
    }

    #[test]
    fn filters_cut_the_tail() {
        let k = Sampling {
            top_k: Some(2),
            ..Sampling::default()
        };
        assert!((share_of(k.clone(), &logits(), 0) - 2.0 / 3.0).abs() < 0.02);
        assert_eq!(share_of(k, &logits(), 2), 0.0);
        let p = Sampling {
            top_p: Some(0.7),
            ..Sampling::default()
        };
        assert!((share_of(p.clone(), &logits(), 1) - 1.0 / 3.0).abs() < 0.02);
        assert_eq!(share_of(p, &logits(), 2), 0.0);
        let m = Sampling {
            min_p: Some(0.4),
            ..Sampling::default()
        };
        assert_eq!(share_of(m.clone(), &logits(), 2), 0.0);
        assert!((share_of(m, &logits(), 0) - 2.0 / 3.0).abs() < 0.02);
    }

    #[test]
    fn greedy_takes_the_smallest_id_among_equals_and_passes_over_nan() {
        let mut s = sampler(Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        });
        let mut c = Candidates::new();
        let mut logits = vec![f32::NAN, 1.0, 3.0, 3.0];
        assert_eq!(s.choose(&mut logits, &[], 0, &mut c).unwrap().token, 2);
        assert_eq!(s.choose(&mut [f32::NAN; 4], &[], 0, &mut c), None);
    }

    #[test]
    fn penalties_look_at_the_window_and_logprobs_stay_raw() {
        let wanted = Sampling {
            temperature: Some(0.0),
            repeat_penalty: Some(2.0),
            repeat_last: Some(2),
            logprobs: Some(2),
            ..Sampling::default()
        };
        let mut s = sampler(wanted);
        let mut c = Candidates::new();
        let raw = vec![3.0f32, 2.0, -1.0];
        let chosen = s.choose(&mut raw.clone(), &[1, 0, 2], 3, &mut c).unwrap();
        assert_eq!(
            chosen.token, 1,
            "token 0 is halved to 1.5, token 1 lies outside the window"
        );
        let normalizer = raw.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln();
        assert!((f64::from(chosen.logprob.unwrap()) - (2.0 - normalizer)).abs() < 1e-6);
        assert_eq!(chosen.top[0].0, 0);
    }

    #[test]
    fn presence_and_frequency_count_generated_tokens_only() {
        let wanted = Sampling {
            temperature: Some(0.0),
            frequency_penalty: Some(1.0),
            ..Sampling::default()
        };
        let mut s = sampler(wanted);
        let mut c = Candidates::new();
        let raw = vec![3.0f32, 2.0];
        assert_eq!(
            s.choose(&mut raw.clone(), &[0, 0, 0], 3, &mut c).unwrap().token,
            0
        );
        assert_eq!(
            s.choose(&mut raw.clone(), &[0, 0, 0], 1, &mut c).unwrap().token,
            1
        );
    }

    #[test]
    fn same_seed_same_choices() {
        let run = |seed| {
            let mut s = sampler(Sampling {
                seed: Some(seed),
                ..Sampling::default()
            });
            let mut c = Candidates::new();
            (0..50)
                .map(|_| s.choose(&mut logits(), &[], 0, &mut c).unwrap().token)
                .collect::<Vec<_>>()
        };
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }
}
