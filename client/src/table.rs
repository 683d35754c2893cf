//! Tables and values, each in two forms: short and aligned for people, exact and tab-separated for programs. Invariant: a
//! cell never holds a tab or a line end.
use crate::control::one_line;
use std::fmt::Write as _;

/// One cell: how a person reads it and how a program does.
#[derive(Clone, Debug)]
pub struct Cell {
    person: String,
    program: String,
}

impl Cell {
    /// The same for both.
    pub fn text(text: impl AsRef<str>) -> Cell {
        let text = one_line(text.as_ref());
        Cell {
            person: text.clone(),
            program: text,
        }
    }

    /// A short form for people, the exact one for programs.
    pub fn both(person: impl Into<String>, program: impl ToString) -> Cell {
        Cell {
            person: one_line(&person.into()),
            program: one_line(&program.to_string()),
        }
    }

    /// Nothing known.
    pub fn none() -> Cell {
        Cell {
            person: "-".to_owned(),
            program: String::new(),
        }
    }

    /// As `make` makes it, or nothing known.
    pub fn maybe<T>(value: Option<T>, make: impl FnOnce(T) -> Cell) -> Cell {
        value.map_or_else(Cell::none, make)
    }
}

/// How a column lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings. Programs get no headings.
#[derive(Debug)]
pub struct Table {
    columns: &'static [(&'static str, Align)],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub fn new(columns: &'static [(&'static str, Align)]) -> Self {
        Table {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row, one cell a column.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// For programs.
    pub fn tabbed(&self) -> String {
        let mut out = String::new();
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(|cell| cell.program.as_str()).collect();
            out.push_str(&cells.join("\t"));
            out.push('\n');
        }
        out
    }

    /// For people.
    pub fn aligned(&self) -> String {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, (heading, _))| {
                let widest = self
                    .rows
                    .iter()
                    .filter_map(|row| row.get(i))
                    .map(|cell| width(&cell.person))
                    .max();
                widest.unwrap_or(0).max(heading.len())
            })
            .collect();
        let mut out = String::new();
        let headings: Vec<&str> = self.columns.iter().map(|(heading, _)| *heading).collect();
        self.push_row(&mut out, &headings, &widths);
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(|cell| cell.person.as_str()).collect();
            self.push_row(&mut out, &cells, &widths);
        }
        out
    }

    fn push_row(&self, out: &mut String, cells: &[&str], widths: &[usize]) {
        let mut line = String::new();
        for ((cell, &space), (_, align)) in cells.iter().zip(widths).zip(self.columns) {
            let gap = " ".repeat(space.saturating_sub(width(cell)));
            match align {
                Align::Left => line.extend([*cell, gap.as_str(), "  "]),
                Align::Right => line.extend([gap.as_str(), cell, "  "]),
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// Names and values, one a line.
#[derive(Debug, Default)]
pub struct Fields(Vec<(String, Cell)>);

impl Fields {
    /// None yet.
    pub fn new() -> Self {
        Fields::default()
    }

    /// Adds one.
    pub fn add(&mut self, name: &str, value: Cell) -> &mut Self {
        self.0.push((one_line(name), value));
        self
    }

    /// For programs.
    pub fn tabbed(&self) -> String {
        self.0.iter().fold(String::new(), |mut out, (name, cell)| {
            let _ = writeln!(out, "{name}\t{}", cell.program);
            out
        })
    }

    /// For people.
    pub fn aligned(&self) -> String {
        let widest = self.0.iter().map(|(name, _)| width(name)).max().unwrap_or(0);
        self.0.iter().fold(String::new(), |mut out, (name, cell)| {
            let _ = writeln!(out, "{name:widest$}  {}", cell.person);
            out
        })
    }
}

// Wide (CJK) characters count as one: a crooked column is not worth a table of widths.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// Bytes for people, in powers of ten as disks are sold: `604 MB`.
pub fn size(bytes: u64) -> Cell {
    Cell::both(scaled(bytes, &[" B", " kB", " MB", " GB", " TB", " PB"]), bytes)
}

/// A number of weights or tokens for people: `596M`.
pub fn count(number: u64) -> Cell {
    Cell::both(scaled(number, &["", "K", "M", "B", "T"]), number)
}

fn scaled(number: u64, units: &[&str]) -> String {
    let mut value = number as f64;
    let mut left = units.iter();
    let mut unit = left.next().copied().unwrap_or_default();
    // 999.5 would print as 1000.
    while value >= 999.5 {
        let Some(&next) = left.next() else { break };
        value /= 1000.0;
        unit = next;
    }
    if value < 9.95 && number >= 1000 {
        format!("{value:.1}{unit}")
    } else {
        format!("{value:.0}{unit}")
    }
}

/// A time span for people: `42s`, `5m`, `3h`, `12d`.
pub fn span(seconds: u64) -> Cell {
    let text = match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    };
    Cell::both(text, seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        let size = |bytes| size(bytes).person;
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1000), "1.0 kB");
        assert_eq!(size(999_999), "1.0 MB");
        assert_eq!(size(604_000_000), "604 MB");
        assert_eq!(size(1_234_000_000), "1.2 GB");
        assert_eq!(size(u64::MAX), "18447 PB");
        assert_eq!(count(596_049_920).person, "596M");
        assert_eq!(count(1_543_714_304).person, "1.5B");
        assert_eq!(count(596_049_920).program, "596049920");
    }

    #[test]
    fn spans_are_short() {
        let spans: Vec<String> = [59, 60, 3600, 172_800]
            .into_iter()
            .map(|s| span(s).person)
            .collect();
        assert_eq!(spans, ["59s", "1m", "1h", "2d"]);
    }

    #[test]
    fn tables_fit_their_reader() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("SIZE", Align::Right),
            ("NOTE", Align::Left),
        ]);
        table.row(vec![Cell::text("a\tb"), size(604_000_000), Cell::text("")]);
        table.row(vec![Cell::text("länger"), Cell::none(), Cell::text("default")]);
        assert_eq!(table.tabbed(), "a b\t604000000\t\nlänger\t\tdefault\n");
        assert_eq!(
            table.aligned(),
            "NAME      SIZE  NOTE\na b     604 MB\nlänger       -  default\n"
        );
    }
}
