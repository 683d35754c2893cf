//! How often drafts come true, and how long a draft pays. Invariant: every estimate lies from 0 to 1.
//!
//! The longer a match, the likelier its continuation; and a draft whose first tokens came true has become a longer
//! match. So one estimate for each length of the match covers every position of a draft.
use super::ngram::MATCH_MAX;

/// What is expected of matches of 2, 3, 4 to 7, and 8 tokens before anything is known.
const PRIOR: [f32; 4] = [0.3, 0.5, 0.7, 0.9];
/// Weight of the newest observation once there are many.
const NEWEST: f32 = 1.0 / 8.0;
/// A row must be expected to bring this many times its cost: estimates err.
const MARGIN: f32 = 1.25;

/// The estimates of one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Odds {
    /// Probability that the next token of a draft comes true, and how often that was observed.
    classes: [(f32, u32); 4],
}

impl Default for Odds {
    fn default() -> Self {
        Odds::new()
    }
}

impl Odds {
    /// What is expected of any text.
    pub fn new() -> Odds {
        Odds {
            classes: PRIOR.map(|p| (p, 0)),
        }
    }

    /// How many tokens, at most `max`, are worth drafting after a match of `length` tokens, where each costs `cost` of
    /// what a token costs otherwise.
    pub fn worth(&self, length: usize, cost: f32, max: usize) -> usize {
        let mut all_true = 1.0;
        let pays = |&at: &usize| {
            all_true *= self.classes[class(length + at)].0;
            all_true > cost * MARGIN
        };
        (0..max).take_while(pays).count()
    }

    /// Learns that the first `accepted` of `drafted` tokens came true after a match of `length` tokens.
    pub fn learn(&mut self, length: usize, drafted: usize, accepted: usize) {
        // Tokens after the first wrong one were never put to the test.
        for at in 0..drafted.min(accepted + 1) {
            let (odds, seen) = &mut self.classes[class(length + at)];
            let weight = (1.0 / (*seen as f32 + 2.0)).max(NEWEST);
            let truth = if at < accepted { 1.0 } else { 0.0 };
            *odds += (truth - *odds) * weight;
            *seen = seen.saturating_add(1);
        }
    }
}

fn class(length: usize) -> usize {
    match length {
        0..=2 => 0,
        3 => 1,
        4..MATCH_MAX => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_grow_with_success_and_end_with_failure() {
        let mut odds = Odds::new();
        let fresh = odds.worth(2, 0.1, 15);
        assert!((1..8).contains(&fresh), "{fresh}");
        for _ in 0..40 {
            odds.learn(2, 15, 15);
        }
        assert_eq!(odds.worth(2, 0.1, 15), 15);
        assert_eq!(odds.worth(2, 0.1, 4), 4);
        for _ in 0..40 {
            odds.learn(2, 15, 0);
        }
        assert_eq!(odds.worth(2, 0.1, 15), 0);
        assert_eq!(odds.worth(8, 0.1, 15), 15, "long matches were not tried");
    }

    #[test]
    fn two_failures_are_enough_where_rows_are_dear() {
        let mut odds = Odds::new();
        odds.learn(2, 1, 0);
        odds.learn(2, 1, 0);
        assert_eq!(odds.worth(2, 0.15, 15), 0);
    }

    #[test]
    fn what_was_not_tested_is_not_learned() {
        let (mut one, mut many) = (Odds::new(), Odds::new());
        one.learn(2, 2, 1);
        many.learn(2, 15, 1);
        assert_eq!(one, many);
    }

    #[test]
    fn a_dear_row_needs_better_odds() {
        let odds = Odds::new();
        let rows: Vec<_> = [0.01, 0.1, 0.3, 0.7, 1.0]
            .map(|cost| odds.worth(4, cost, 15))
            .into();
        assert!(
            rows.is_sorted_by(|a, b| a >= b) && rows[0] > rows[3] && rows[4] == 0,
            "{rows:?}"
        );
    }
}
