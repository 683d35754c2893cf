//! What a further row of a decode step costs on this machine, from the steps themselves. Invariant: the answer is a
//! share of a step from [`COST_MIN`] to 1, whatever the clock says.
//!
//! A step of r rows is taken to last a + b·r: a is the pass over the weights, b the arithmetic of a row. Both are
//! fitted to the latest steps by least squares with exponentially falling weights, held to a first guess as long as
//! the number of rows hardly varies.

/// What a row is taken to cost before anything was measured, as a share of a step of one row.
const GUESS: f64 = 0.25;
/// How much the guess weighs against what was measured, as a variance of the number of rows.
const GUESS_WEIGHT: f64 = 0.01;
/// Weight of the newest step once there are many: where drafts are rare, as where they do not pay, one in a hundred
/// steps has more rows than the others, and what it took must not be forgotten until the next.
const NEWEST: f64 = 1.0 / 256.0;
/// A row is never taken to be cheaper than this share of a step.
const COST_MIN: f64 = 0.02;
/// A step that lasts longer than this many usual ones was interrupted.
const SLOW_MAX: f64 = 2.0;

/// What the latest steps of one model took.
#[derive(Clone, Debug, Default)]
pub struct RowCost {
    steps: u32,
    rows: f64,
    seconds: f64,
    rows_variance: f64,
    covariance: f64,
}

impl RowCost {
    /// Takes in a step that computed `rows` rows and nothing else.
    pub fn measure(&mut self, rows: usize, seconds: f32) {
        let (rows, mut seconds) = (rows as f64, f64::from(seconds));
        if self.steps == 0 {
            (self.rows, self.seconds) = (rows, seconds);
        } else if self.steps > 8 {
            seconds = seconds.min(self.predict(rows) * SLOW_MAX);
        }
        self.steps = self.steps.saturating_add(1);
        let newest = NEWEST.max(1.0 / f64::from(self.steps));
        let (off_rows, off_seconds) = (rows - self.rows, seconds - self.seconds);
        self.rows += newest * off_rows;
        self.seconds += newest * off_seconds;
        let kept = 1.0 - newest;
        self.rows_variance = kept * (self.rows_variance + newest * off_rows * off_rows);
        self.covariance = kept * (self.covariance + newest * off_rows * off_seconds);
    }

    /// What one more row costs in a step that answers `sequences` sequences, as a share of what one token costs there
    /// without drafts.
    pub fn share(&self, sequences: usize) -> f32 {
        let tokens = sequences.max(1) as f64;
        let step = self.predict(tokens);
        if step <= 0.0 {
            return (GUESS * tokens / (1.0 - GUESS + GUESS * tokens)) as f32;
        }
        (self.row() * tokens / step).clamp(COST_MIN, 1.0) as f32
    }

    /// Seconds of one more row.
    fn row(&self) -> f64 {
        let guess = GUESS * self.seconds / (1.0 - GUESS + GUESS * self.rows);
        let fitted = (self.covariance + GUESS_WEIGHT * guess) / (self.rows_variance + GUESS_WEIGHT);
        fitted.clamp(0.0, self.seconds / self.rows.max(1.0))
    }

    fn predict(&self, rows: f64) -> f64 {
        self.seconds + self.row() * (rows - self.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(costs: &mut RowCost, rows: &[usize], times: usize, ms: impl Fn(usize) -> f64) {
        for _ in 0..times {
            for &rows in rows {
                costs.measure(rows, ms(rows) as f32 * 1e-3);
            }
        }
    }

    #[test]
    fn a_guess_stands_until_something_was_measured() {
        let mut costs = RowCost::default();
        let guess = costs.share(1);
        assert!((0.2..0.3).contains(&guess), "{guess}");
        assert!(costs.share(8) > guess && costs.share(0) == guess);
        steps(&mut costs, &[1], 100, |_| 20.0);
        assert!(
            (costs.share(1) - guess).abs() < 0.01,
            "one row says nothing about two"
        );
    }

    #[test]
    fn the_cost_of_a_row_is_found() {
        for row_ms in [1.0, 3.0, 12.0] {
            let mut costs = RowCost::default();
            steps(&mut costs, &[1, 1, 5, 1, 8], 60, |rows| {
                15.0 + row_ms * rows as f64
            });
            for sequences in [1, 4, 8] {
                let want = row_ms * sequences as f64 / (15.0 + row_ms * sequences as f64);
                let got = f64::from(costs.share(sequences));
                assert!(
                    (got - want).abs() < 0.03,
                    "{row_ms} ms, {sequences}: {got}, not {want}"
                );
            }
        }
    }

    #[test]
    fn the_cost_of_a_row_is_found_where_drafts_are_rare() {
        let mut costs = RowCost::default();
        let mut rows = [4; 50];
        rows[49] = 5;
        steps(&mut costs, &rows, 10, |rows| 0.05 + 0.08 * rows as f64);
        let (got, want) = (costs.share(4), 0.32 / 0.37);
        assert!((got - want).abs() < 0.13, "{got}, not {want}");
    }

    #[test]
    fn a_hiccup_changes_little_and_nonsense_stays_in_range() {
        let mut costs = RowCost::default();
        steps(&mut costs, &[1, 5], 60, |rows| 15.0 + rows as f64);
        let before = costs.share(1);
        costs.measure(1, 3.0);
        assert!(
            (costs.share(1) - before).abs() < 0.06,
            "{before} {}",
            costs.share(1)
        );
        steps(&mut costs, &[1, 16], 60, |rows| 40.0 - rows as f64);
        assert!((COST_MIN as f32..0.05).contains(&costs.share(1)));
        steps(&mut costs, &[1, 16], 60, |_| 0.0);
        assert!((0.0..=1.0).contains(&costs.share(3)));
    }
}
