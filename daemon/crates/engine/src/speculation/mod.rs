//! Lossless speculation: guesses the next tokens from what was said before, so that one step checks several at once.
//! Invariant: a guess decides only how many tokens a step computes, never which token is chosen.
//!
//! The method is prompt lookup (Saxena 2023, after Leviathan, Kalman, Matias 2023): where the newest tokens stood
//! before in the prompt or the answer, what followed them there is the draft. Each position is sampled from the model's
//! own distribution with the sequence's own random numbers, and a draft token is accepted where it equals the sampled
//! one, so the text is the same as without drafts, token for token and seed for seed.
mod cost;
mod ngram;
mod odds;

pub use cost::RowCost;
pub use ngram::{Found, NgramIndex};
pub use odds::Odds;

/// Most draft tokens of one sequence in a step: with the token before them they fill one tile of logits.
pub const DRAFT_MAX: usize = crate::options::LOGIT_ROWS - 1;

/// Share of the time that may be lost to drafts.
const LOSS_SHARE: f32 = 0.01;
/// What a sequence may lose at its start, in tokens' time: 1% of a short answer of 25 tokens.
const PURSE_START: f32 = 0.25;
/// Most of what drafts have won that later ones may lose again.
const PURSE_MAX: f32 = 2.0;

/// Drafts for one sequence.
#[derive(Debug)]
pub struct Speculation {
    /// Made when it is first needed, and given back while the sequence waits.
    index: Option<NgramIndex>,
    tokens_max: usize,
    odds: Odds,
    /// Length of the match behind the draft at hand.
    matched: usize,
    /// Tokens of the answer since the last draft.
    rested: u32,
    /// What may be lost now, in tokens' time. Rows are paid from it and tokens that came true fill it, so whatever the
    /// odds were taken to be, drafts never cost more than this and a small share of the time.
    purse: f32,
    /// What a row of the draft at hand costs.
    cost: f32,
}

impl Speculation {
    /// For a sequence of at most `tokens_max` tokens; it has seen none of them yet.
    pub fn new(tokens_max: usize) -> Speculation {
        Speculation {
            index: None,
            tokens_max,
            odds: Odds::new(),
            matched: 0,
            rested: 0,
            purse: PURSE_START,
            cost: 0.0,
        }
    }

    /// Appends up to `max` draft tokens to `tokens` and returns how many. `cost` is what a further row of a step costs,
    /// as a share of what a token costs without drafts. Nothing is drafted from a token on that `ends` an answer.
    /// `tokens` never grows beyond its capacity, so nothing is allocated.
    pub fn draft(
        &mut self,
        tokens: &mut Vec<u32>,
        cost: f32,
        max: usize,
        ends: &dyn Fn(u32) -> bool,
    ) -> usize {
        let index = self.index.get_or_insert_with(|| NgramIndex::new(self.tokens_max));
        index.extend(tokens);
        let max = max.min(DRAFT_MAX).min(tokens.capacity() - tokens.len());
        self.cost = cost;
        let Some(found) = index.find(tokens).filter(|_| max > 0) else {
            return 0;
        };
        let max = max.min((self.purse / cost) as usize);
        let mut count = self.odds.worth(found.length, cost, max);
        if count == 0 && self.rested as f32 * LOSS_SHARE >= cost {
            // To notice when drafts would pay again.
            count = max.min(1);
        }
        let known = tokens.len();
        for at in found.next..found.next + count {
            // What follows the match may reach into the draft itself: that is how a loop goes on.
            match tokens.get(at) {
                Some(&token) if !ends(token) => tokens.push(token),
                _ => break,
            }
        }
        self.matched = found.length;
        tokens.len() - known
    }

    /// Learns what came of a step: so many tokens were drafted, and the first `accepted` of them came true.
    pub fn learn(&mut self, drafted: usize, accepted: usize) {
        if drafted > 0 {
            self.odds.learn(self.matched, drafted, accepted);
            self.rested = 0;
            self.purse = (self.purse + accepted as f32 - drafted as f32 * self.cost).min(PURSE_MAX);
        }
        let grown = 1 + accepted as u32;
        self.rested = self.rested.saturating_add(grown);
        // A row must fit in, however dear it is; else nothing would ever be drafted.
        let full = PURSE_START.max(self.cost);
        if self.purse < full {
            self.purse = (self.purse + grown as f32 * LOSS_SHARE).min(full);
        }
    }

    /// Gives the index back; the next draft makes it anew.
    pub fn rest(&mut self) {
        self.index = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays a text that is known beforehand: what a step without surprises would do. Returns (steps, rows).
    fn play(text: &[u32], prompt: usize, cost: f32) -> (usize, usize) {
        let mut speculation = Speculation::new(text.len());
        let mut tokens = Vec::with_capacity(text.len() + DRAFT_MAX);
        tokens.extend_from_slice(&text[..prompt]);
        let (mut steps, mut rows) = (0, 0);
        while tokens.len() < text.len() {
            let known = tokens.len();
            let max = text.len() - known - 1;
            let drafted = speculation.draft(&mut tokens, cost, max, &|_| false);
            let right = (known..known + drafted)
                .take_while(|&at| tokens[at] == text[at])
                .count();
            tokens.truncate(known);
            tokens.extend_from_slice(&text[known..known + right + 1]);
            speculation.learn(drafted, right);
            (steps, rows) = (steps + 1, rows + drafted);
        }
        (steps, rows)
    }

    fn numbers(seed: u64, below: u32) -> impl FnMut() -> u32 {
        let mut state = seed;
        move || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) as u32 % below
        }
    }

    #[test]
    fn a_quote_takes_few_steps() {
        let mut next = numbers(1, 50_000);
        let mut text: Vec<u32> = (0..300).map(|_| next()).collect();
        text.extend_from_within(20..220);
        let (steps, rows) = play(&text, 300, 0.1);
        assert!(steps <= 30, "{steps} steps for 200 tokens");
        assert!(rows <= 220, "{rows} rows for 200 tokens");
    }

    #[test]
    fn a_loop_runs_ahead_of_what_it_has_seen() {
        let text: Vec<u32> = (0..400).map(|i| i % 3).collect();
        let (steps, ..) = play(&text, 8, 0.1);
        assert!(steps <= 40, "{steps} steps for 392 tokens");
    }

    #[test]
    fn noise_costs_next_to_nothing() {
        // Few different tokens, so that every pair has been seen, and none predicts anything.
        for cost in [0.05, 0.15, 0.5, 1.0] {
            let mut next = numbers(2, 40);
            let text: Vec<u32> = (0..4000).map(|_| next()).collect();
            let (steps, rows) = play(&text, 1000, cost);
            let time = steps as f32 + rows as f32 * cost;
            assert!(time < 3000.0 * 1.012, "{steps} steps and {rows} rows at {cost}");
        }
    }

    #[test]
    fn noise_costs_little_of_a_short_answer_too() {
        for cost in [0.05, 0.15, 0.5, 1.0] {
            for seed in 0..20 {
                let mut next = numbers(seed, 40);
                let text: Vec<u32> = (0..1048).map(|_| next()).collect();
                let (steps, rows) = play(&text, 1000, cost);
                let time = steps as f32 + rows as f32 * cost;
                assert!(time < 48.0 * 1.02, "{steps} steps and {rows} rows at {cost}");
            }
        }
    }

    #[test]
    fn a_quote_pays_where_rows_are_dear() {
        let mut next = numbers(5, 50_000);
        let mut text: Vec<u32> = (0..400).map(|_| next()).collect();
        text.extend_from_within(20..320);
        let (steps, rows) = play(&text, 400, 0.7);
        let time = steps as f32 + rows as f32 * 0.7;
        assert!(time < 300.0 * 0.85, "{steps} steps and {rows} rows");
    }

    #[test]
    fn it_comes_back_when_the_text_begins_to_repeat() {
        let mut next = numbers(3, 40);
        let mut text: Vec<u32> = (0..2000).map(|_| next()).collect();
        text.extend_from_within(500..900);
        let (before, ..) = play(&text[..2000], 100, 0.1);
        let (all, ..) = play(&text, 100, 0.1);
        assert!(
            all - before <= 100,
            "{} steps for 400 quoted tokens",
            all - before
        );
    }

    #[test]
    fn nothing_is_drafted_from_an_end_on_or_beyond_the_room() {
        let mut tokens = Vec::with_capacity(32);
        tokens.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4]);
        let mut speculation = Speculation::new(16);
        assert_eq!(speculation.draft(&mut tokens, 0.01, 8, &|t| t == 6), 1);
        assert_eq!(tokens.last(), Some(&5));
        tokens.truncate(11);
        assert_eq!(speculation.draft(&mut tokens, 0.01, 8, &|t| t == 5), 0);
        assert_eq!(speculation.draft(&mut tokens, 0.01, 2, &|_| false), 2);
        tokens.truncate(11);
        assert_eq!(speculation.draft(&mut tokens, 0.01, 0, &|_| false), 0);
    }
}
