//! What `hyp bench` found, as a table and as JSON. Invariant: both have the same figures under the same names.
use crate::table::{Align, Cell, Table};
use hyprstream_protocol::{Model, Status};
use serde_json::{Value, json};

const COLUMNS: &[(&str, Align)] = &[
    ("FIGURE", Align::Left),
    ("MEDIAN", Align::Right),
    ("UNIT", Align::Left),
    ("LOWEST", Align::Right),
    ("HIGHEST", Align::Right),
];

/// What a number counts.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// Speed.
    TokensPerSecond,
    /// Time.
    Milliseconds,
    /// Memory.
    Megabytes,
    /// Energy.
    JoulesPerToken,
    /// How many times another figure.
    Times,
}

impl Unit {
    fn text(self) -> &'static str {
        match self {
            Unit::TokensPerSecond => "tok/s",
            Unit::Milliseconds => "ms",
            Unit::Megabytes => "MB",
            Unit::JoulesPerToken => "J/tok",
            Unit::Times => "x",
        }
    }
}

/// One figure, with what each run found.
#[derive(Debug)]
pub struct Figure {
    name: String,
    unit: Unit,
    /// In the order of the runs; none where it could not be taken.
    pub runs: Vec<f64>,
    /// Why a run is missing.
    why: Option<&'static str>,
}

impl Figure {
    /// A figure with the runs so far.
    pub fn new<const N: usize>(name: impl Into<String>, unit: Unit, runs: [f64; N]) -> Figure {
        Figure {
            name: name.into(),
            unit,
            runs: runs.to_vec(),
            why: None,
        }
    }

    /// One more run, or why there is none.
    pub fn add(&mut self, run: Result<f64, &'static str>) {
        match run {
            Ok(run) => self.runs.push(run),
            Err(why) => self.why = Some(why),
        }
    }

    /// Why there is no figure; `None` where there is one.
    pub fn missing(&self) -> Option<&'static str> {
        self.why.filter(|_| self.runs.is_empty())
    }

    /// The same in a sentence.
    pub fn remark(&self) -> Option<String> {
        self.missing().map(|why| format!("{}: {why}", self.name))
    }

    fn sorted(&self) -> Vec<f64> {
        let mut runs = self.runs.clone();
        runs.sort_by(f64::total_cmp);
        runs
    }

    /// The middle run, or the mean of the middle two.
    fn median(&self) -> Option<f64> {
        let runs = self.sorted();
        let low = runs.get(runs.len().checked_sub(1)? / 2)?;
        let high = runs.get(runs.len() / 2)?;
        Some((low + high) / 2.0)
    }
}

/// For people and for programs in a pipe.
pub fn table(figures: &[Figure]) -> Table {
    let number = |value: &f64| Cell::both(short(*value), value);
    let mut table = Table::new(COLUMNS);
    for figure in figures {
        let runs = figure.sorted();
        let several = runs.len() > 1;
        table.row(vec![
            Cell::text(&figure.name),
            Cell::maybe(figure.median(), |median| number(&median)),
            Cell::text(figure.unit.text()),
            Cell::maybe(runs.first().filter(|_| several), number),
            Cell::maybe(runs.last().filter(|_| several), number),
        ]);
    }
    table
}

/// For programs that ask for JSON.
pub fn json(model: &Model, status: &Status, figures: &[Figure]) -> Value {
    let figures: Vec<Value> = figures
        .iter()
        .map(|figure| {
            json!({
                "name": figure.name,
                "unit": figure.unit.text(),
                "median": figure.median(),
                "runs": figure.runs,
                "missing": figure.missing(),
            })
        })
        .collect();
    json!({
        "model": model.name,
        "format": model.format,
        "parameters": model.parameters,
        "version": status.version,
        "threads": status.threads,
        "isa": status.isa,
        "figures": figures,
    })
}

/// Three digits that count.
fn short(value: f64) -> String {
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let median = |runs: &[f64]| {
            let mut figure = Figure::new("x", Unit::Milliseconds, []);
            figure.runs = runs.to_vec();
            figure.median()
        };
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn what_is_missing_has_a_reason() {
        let mut figure = Figure::new("x", Unit::Milliseconds, []);
        figure.add(Err("no room"));
        assert_eq!(figure.remark().as_deref(), Some("x: no room"));
        // One of several runs is enough.
        figure.add(Ok(1.0));
        assert_eq!((figure.missing(), figure.median()), (None, Some(1.0)));
    }

    #[test]
    fn numbers_are_short() {
        let all: Vec<String> = [1138.2, 99.96, 40.44, 9.994, 0.5]
            .iter()
            .map(|v| short(*v))
            .collect();
        assert_eq!(all, ["1138", "100", "40.4", "9.99", "0.50"]);
    }
}
