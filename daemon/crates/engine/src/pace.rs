//! How far prompts get between two tokens of running answers. Invariant: one part of a layer at least, so that a prompt
//! always gets on, and no more than keeps the time between an answer's tokens below twice the quiet one, where that is
//! possible.
//!
//! Costs are not modelled but followed: what the latest steps took, and the latest part of each kind, in proportion to its
//! tokens.
use crate::forward::{Lane, Part};
use crate::options::SEQUENCES_MAX;
use hyprstream_kernels::KV_BLOCK;

/// How long a step and the parts after it may take together, in quiet steps. Below two, since the slowest of twenty counts,
/// and since the steps themselves get longer as the answers grow.
const STRETCH: f32 = 1.5;
/// How long both halves of a layer should take for a chunk, in quiet steps: then each step brings it on by a layer.
const LAYER_SHARE: f32 = 0.6;
/// What one step may leave to the next, or take from it, in quiet steps.
const CARRY: f32 = 0.12;
/// Least time of the parts, as a share of the step's, however slow steps have become.
const SHARE_MIN: f32 = 0.25;
/// A step that took longer than so many quiet ones was stopped, by a debugger or a suspend, say.
const STALL: f32 = 4.0;
/// What a part costs beside its tokens, in tokens: weights are brought into the form that products want.
const FIXED_TOKENS: f32 = 48.0;
/// Tokens of a chunk between answers before anything was measured.
const CHUNK_START: usize = 2 * KV_BLOCK;
/// Seconds of parts while nobody answers: then the scheduler looks at what has come meanwhile.
const ALONE: f32 = 0.04;

/// Kinds of parts.
const KINDS: usize = 3;

pub struct Pace {
    /// Seconds of a step that carries so many tokens of answers, without the parts after it; 0 where none was seen.
    quiet: [f32; SEQUENCES_MAX + 1],
    /// Seconds of a token in a part, by lane and kind; 0 where none was seen.
    parts: [[f32; KINDS]; 3],
    /// Seconds left over, or overdrawn.
    carry: f32,
}

fn kind(part: Part) -> usize {
    match part {
        Part::Attention(_) => 0,
        Part::FeedForward(_) => 1,
        Part::Logits(_) => 2,
    }
}

/// What a part's tokens count. Logits come in tiles of one size.
fn weight(part: Part, tokens: usize) -> f32 {
    match part {
        Part::Logits(_) => 1.0,
        _ => tokens as f32 + FIXED_TOKENS,
    }
}

impl Pace {
    pub fn new() -> Pace {
        Pace {
            quiet: [0.0; SEQUENCES_MAX + 1],
            parts: [[0.0; KINDS]; 3],
            carry: 0.0,
        }
    }

    /// Tokens of the next chunk of prompts, `max` at most, where so many tokens of answers are in a step.
    pub fn chunk(&self, lane: Lane, answering: usize, max: usize) -> usize {
        if answering == 0 {
            return max;
        }
        let [attention, feed_forward, _] = self.parts[lane as usize];
        let token = attention + feed_forward;
        let tokens = match self.quiet(answering) {
            Some(quiet) if token > 0.0 => (quiet * LAYER_SHARE / token - FIXED_TOKENS).max(0.0) as usize,
            _ => CHUNK_START,
        };
        (tokens / KV_BLOCK * KV_BLOCK).max(KV_BLOCK).min(max)
    }

    /// Seconds for parts after a step with so many tokens of answers, which took `step` seconds.
    pub fn allowance(&self, answering: usize, step: f32) -> f32 {
        if answering == 0 {
            return ALONE;
        }
        let quiet = self.quiet(answering).unwrap_or(step);
        // A step that was stopped for seconds says nothing about how long others may wait.
        let left = (quiet * STRETCH - step).max(step.min(quiet * STALL) * SHARE_MIN);
        left + self.carry.clamp(-quiet * CARRY, quiet * CARRY)
    }

    /// What is left of the allowance.
    pub fn settle(&mut self, left: f32) {
        self.carry = if left.is_finite() { left } else { 0.0 };
    }

    /// What this part will take; nothing where none was seen.
    pub fn cost(&self, lane: Lane, part: Part, tokens: usize) -> f32 {
        self.parts[lane as usize][kind(part)] * weight(part, tokens)
    }

    /// Takes in what a part took.
    pub fn observe_part(&mut self, lane: Lane, part: Part, tokens: usize, seconds: f32) {
        let took = seconds / weight(part, tokens);
        if took.is_finite() {
            follow(&mut self.parts[lane as usize][kind(part)], took);
        }
    }

    /// Takes in what a step with so many tokens of answers took.
    pub fn observe_step(&mut self, answering: usize, seconds: f32) {
        let quiet = &mut self.quiet[answering.min(SEQUENCES_MAX)];
        if seconds.is_finite() {
            let most = if *quiet > 0.0 { *quiet * STALL } else { seconds };
            follow(quiet, seconds.min(most));
        }
    }

    /// The quiet step of as many answers; of fewer, which is shorter, where that was not seen; of more, at last.
    fn quiet(&self, answering: usize) -> Option<f32> {
        let (fewer, more) = self.quiet.split_at(answering.min(SEQUENCES_MAX) + 1);
        let seen = |seconds: &&f32| **seconds > 0.0;
        fewer.iter().rev().find(seen).or(more.iter().find(seen)).copied()
    }
}

/// Follows faster times quickly and slower ones slowly: disturbance only ever makes them slower.
fn follow(known: &mut f32, seconds: f32) {
    let weight = match *known {
        0.0 => 1.0,
        known if seconds < known => 0.5,
        _ => 0.125,
    };
    *known += (seconds - *known) * weight;
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: usize = 28;

    /// A machine on which a quiet step takes `quiet` seconds and a half layer so many seconds for its tokens.
    struct Machine<F: Fn(usize) -> f32> {
        quiet: f32,
        half: F,
    }

    impl<F: Fn(usize) -> f32> Machine<F> {
        /// Reads so many tokens beside four answers; returns the times between two tokens of an answer.
        fn read(&self, pace: &mut Pace, mut tokens: usize) -> Vec<f32> {
            let mut gaps = Vec::new();
            while tokens > 0 {
                let chunk = pace.chunk(Lane::Long, 4, 512).min(tokens);
                tokens -= chunk;
                let mut parts = (0..LAYERS)
                    .flat_map(|l| [Part::Attention(l), Part::FeedForward(l)])
                    .peekable();
                while parts.peek().is_some() {
                    let mut left = pace.allowance(4, self.quiet);
                    let mut gap = self.quiet;
                    while let Some(part) =
                        parts.next_if(|&part| gap == self.quiet || pace.cost(Lane::Long, part, chunk) <= left)
                    {
                        let took = (self.half)(chunk);
                        pace.observe_part(Lane::Long, part, chunk, took);
                        (gap, left) = (gap + took, left - took);
                    }
                    pace.settle(left);
                    gaps.push(gap);
                }
            }
            gaps
        }
    }

    fn quiet_pace(seconds: f32) -> Pace {
        let mut pace = Pace::new();
        pace.observe_step(4, seconds);
        pace
    }

    fn percentile(gaps: &[f32], part: f32) -> f32 {
        let mut gaps = gaps.to_vec();
        gaps.sort_by(f32::total_cmp);
        gaps[(gaps.len() as f32 * part) as usize]
    }

    #[test]
    fn without_answers_a_chunk_is_as_large_as_it_may_be() {
        let pace = Pace::new();
        assert_eq!(pace.chunk(Lane::Long, 0, 512), 512);
        assert_eq!(
            pace.chunk(Lane::Long, 1, 512),
            CHUNK_START,
            "nothing is known yet"
        );
        assert_eq!(pace.chunk(Lane::Long, 1, 8), 8);
    }

    #[test]
    fn gaps_stay_below_twice_the_quiet_ones_and_the_time_is_used() {
        for (fixed, token) in [(0.0, 2e-5), (0.001, 2e-5), (0.002, 4e-5), (0.0002, 1e-6)] {
            let quiet = 0.020;
            let half = |tokens: usize| fixed + token * tokens as f32;
            let machine = Machine { quiet, half };
            let mut pace = quiet_pace(quiet);
            let gaps = machine.read(&mut pace, 8192);
            let slow = percentile(&gaps, 0.95);
            assert!(slow <= quiet * 2.0, "{slow} s with {fixed} {token}");
            let mean = gaps.iter().sum::<f32>() / gaps.len() as f32;
            assert!(mean >= quiet * 1.33, "{mean} s with {fixed} {token}");
        }
    }

    #[test]
    fn a_chunk_is_as_large_as_its_parts_fit() {
        let quiet = 0.020;
        let machine = Machine {
            quiet,
            half: |tokens: usize| 2e-5 * (tokens as f32 + FIXED_TOKENS),
        };
        let mut pace = quiet_pace(quiet);
        machine.read(&mut pace, 2048);
        // 6 ms hold 300 tokens, 48 of which stand for the fixed cost.
        assert_eq!(pace.chunk(Lane::Long, 4, 512), 224);
        assert_eq!(pace.chunk(Lane::Long, 4, 128), 128);
    }

    #[test]
    fn parts_that_became_dearer_are_followed() {
        let quiet = 0.020;
        let mut pace = quiet_pace(quiet);
        Machine {
            quiet,
            half: |tokens: usize| 1e-5 * tokens as f32,
        }
        .read(&mut pace, 2048);
        let gaps = Machine {
            quiet,
            half: |tokens: usize| 3e-5 * tokens as f32,
        }
        .read(&mut pace, 4096);
        assert!(percentile(&gaps[8..], 0.95) <= quiet * 2.0, "{gaps:?}");
    }

    #[test]
    fn a_prompt_gets_on_even_where_nothing_fits() {
        let quiet = 0.010;
        let mut pace = quiet_pace(quiet);
        let machine = Machine {
            quiet,
            half: |_| 0.050,
        };
        assert_eq!(
            machine.read(&mut pace, 64).len(),
            2 * LAYERS,
            "64 tokens were tried at once"
        );
        assert_eq!(pace.chunk(Lane::Long, 4, 512), KV_BLOCK);
        let slow = pace.allowance(4, 4.0 * quiet);
        assert!(slow >= quiet * 0.8, "however slow the steps are: {slow}");
    }

    #[test]
    fn one_disturbed_quiet_step_changes_little_and_other_counts_lend_theirs() {
        let mut pace = Pace::new();
        for seconds in [0.020, 0.200, 0.020, 0.020, 0.020] {
            pace.observe_step(2, seconds);
        }
        let quiet = pace.quiet(2).unwrap();
        assert!((0.019..0.030).contains(&quiet), "{quiet}");
        assert_eq!((pace.quiet(7), pace.quiet(1)), (Some(quiet), Some(quiet)));
        assert_eq!(Pace::new().quiet(1), None);
    }

    #[test]
    fn a_step_that_was_stopped_for_seconds_buys_no_time_for_prompts() {
        let mut pace = quiet_pace(0.02);
        pace.observe_step(4, 10.0);
        assert!(pace.quiet(4).unwrap() < 0.03);
        assert!(pace.allowance(4, 10.0) < 0.04, "{}", pace.allowance(4, 10.0));
    }

    #[test]
    fn logits_cost_the_same_whatever_the_chunk() {
        let mut pace = quiet_pace(0.02);
        pace.observe_part(Lane::Long, Part::Logits(0), 512, 0.003);
        assert_eq!(pace.cost(Lane::Long, Part::Logits(16), 32), 0.003);
        assert_eq!(pace.cost(Lane::Short, Part::Logits(16), 32), 0.0);
    }
}
