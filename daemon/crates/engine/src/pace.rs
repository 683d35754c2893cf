//! How many prompt tokens a step carries while answers run. Invariant: at least one block's worth, so that a prompt always
//! gets on, and no more than keeps the time between an answer's tokens below twice the quiet one, where that is possible.
//!
//! The cost of prompt tokens is not modelled but followed: after each mixed step the share is set to what would have met
//! the target, down at once and up by one block a step.
use crate::options::SEQUENCES_MAX;
use hyprstream_kernels::KV_BLOCK;

/// How long a mixed step may take, in quiet steps. Below two, since the slowest of twenty counts.
const STRETCH: f32 = 1.75;

pub struct Pace {
    /// Seconds of a step that carries so many tokens of answers and nothing else; 0 where none was seen.
    quiet: [f32; SEQUENCES_MAX + 1],
    share: f32,
    share_max: usize,
}

impl Pace {
    pub fn new(share_max: usize) -> Pace {
        Pace {
            quiet: [0.0; SEQUENCES_MAX + 1],
            share: KV_BLOCK as f32,
            share_max,
        }
    }

    /// Prompt tokens for a step that carries so many tokens of answers.
    pub fn prompt_tokens(&self, answering: usize) -> usize {
        if answering == 0 {
            return self.share_max;
        }
        let blocks = (self.share as usize / KV_BLOCK).max(1);
        (blocks * KV_BLOCK).min(self.share_max)
    }

    /// Takes in what a step took.
    pub fn observe(&mut self, answering: usize, prompt: usize, seconds: f32) {
        if answering == 0 || !seconds.is_finite() {
            return;
        }
        if prompt == 0 {
            self.observe_quiet(answering, seconds);
            return;
        }
        let Some(quiet) = self.quiet(answering) else {
            return;
        };
        let extra = (seconds - quiet).max(quiet * 0.01);
        let fitting = prompt as f32 * (STRETCH - 1.0) * quiet / extra;
        if fitting < self.share {
            // Half at most, so that one disturbed step does not undo everything.
            self.share = fitting.max(self.share / 2.0);
        } else if prompt >= self.prompt_tokens(answering) {
            self.share = fitting.min(self.share + KV_BLOCK as f32);
        }
        self.share = self
            .share
            .clamp(KV_BLOCK as f32, self.share_max.max(KV_BLOCK) as f32);
    }

    /// Follows faster steps quickly and slower ones slowly: disturbance only ever makes a step slower.
    fn observe_quiet(&mut self, answering: usize, seconds: f32) {
        let quiet = &mut self.quiet[answering.min(SEQUENCES_MAX)];
        let weight = match *quiet {
            0.0 => 1.0,
            known if seconds < known => 0.5,
            _ => 0.125,
        };
        *quiet += (seconds - *quiet) * weight;
    }

    /// The quiet step of as many answers; of fewer, which is shorter, where that was not seen; of more, at last.
    fn quiet(&self, answering: usize) -> Option<f32> {
        let (fewer, more) = self.quiet.split_at(answering.min(SEQUENCES_MAX) + 1);
        let seen = |seconds: &&f32| **seconds > 0.0;
        fewer.iter().rev().find(seen).or(more.iter().find(seen)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of a machine with a fixed cost and one for each prompt token, until the share has settled.
    fn settle(pace: &mut Pace, answering: usize, steps: usize, seconds: impl Fn(usize) -> f32) -> Vec<f32> {
        let mut times = Vec::new();
        for _ in 0..steps {
            let prompt = pace.prompt_tokens(answering);
            let took = seconds(prompt);
            pace.observe(answering, prompt, took);
            times.push(took);
        }
        times
    }

    #[test]
    fn without_answers_a_step_is_as_large_as_it_may_be() {
        let mut pace = Pace::new(512);
        assert_eq!(pace.prompt_tokens(0), 512);
        pace.observe(0, 512, 3.0);
        assert_eq!(pace.prompt_tokens(0), 512);
        assert_eq!(pace.prompt_tokens(1), 32, "nothing is known yet");
    }

    #[test]
    fn the_share_grows_to_what_fits_and_never_past_twice_the_quiet_time() {
        let mut pace = Pace::new(512);
        pace.observe(4, 0, 0.040);
        let times = settle(&mut pace, 4, 40, |prompt| 0.040 + 0.000_2 * prompt as f32);
        assert!(times.iter().all(|&t| t <= 0.080), "{times:?}");
        // 150 tokens fit into three quarters of 40 ms.
        assert_eq!(pace.prompt_tokens(4), 128);
    }

    #[test]
    fn a_share_that_became_too_dear_shrinks_within_a_few_steps() {
        let mut pace = Pace::new(512);
        pace.observe(1, 0, 0.020);
        settle(&mut pace, 1, 40, |prompt| 0.020 + 0.000_03 * prompt as f32);
        let before = pace.prompt_tokens(1);
        assert!(before >= 448, "{before}");
        let times = settle(&mut pace, 1, 10, |prompt| 0.020 + 0.000_1 * prompt as f32);
        assert!(times[4..].iter().all(|&t| t <= 0.040), "{times:?}");
    }

    #[test]
    fn a_prompt_gets_on_even_where_nothing_fits() {
        let mut pace = Pace::new(512);
        pace.observe(1, 0, 0.010);
        settle(&mut pace, 1, 10, |prompt| 0.050 + 0.001 * prompt as f32);
        assert_eq!(pace.prompt_tokens(1), 32);
        assert_eq!(Pace::new(8).prompt_tokens(3), 8, "the largest step bounds it");
    }

    #[test]
    fn one_disturbed_quiet_step_changes_little_and_other_counts_lend_theirs() {
        let mut pace = Pace::new(512);
        for seconds in [0.020, 0.200, 0.020, 0.020, 0.020] {
            pace.observe(2, 0, seconds);
        }
        let quiet = pace.quiet(2).unwrap();
        assert!((0.019..0.030).contains(&quiet), "{quiet}");
        assert_eq!((pace.quiet(7), pace.quiet(1)), (Some(quiet), Some(quiet)));
        assert_eq!(Pace::new(512).quiet(1), None);
    }

    #[test]
    fn the_last_short_piece_of_a_prompt_does_not_raise_the_share() {
        let mut pace = Pace::new(512);
        pace.observe(1, 0, 0.020);
        pace.observe(1, 3, 0.020);
        assert_eq!(pace.prompt_tokens(1), 32);
    }
}
