//! Writes to standard output: aligned for people on a terminal, tab-separated for programs in a pipe. Invariant: on a terminal
//! no control character of a model or a file reaches it.
use crate::control::visible;
use crate::exit::Failure;
use crate::table::{Fields, Table};
use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

/// Standard output, flushed after every piece.
#[derive(Debug)]
pub struct Out {
    terminal: bool,
    line_open: bool,
}

impl Out {
    /// Standard output as it is.
    pub fn new() -> Self {
        Out {
            terminal: io::stdout().is_terminal(),
            line_open: false,
        }
    }

    /// Whether a person looks at it.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Text as it comes, right away.
    pub fn text(&mut self, text: &str) -> Result<(), Failure> {
        if text.is_empty() {
            return Ok(());
        }
        self.line_open = !text.ends_with('\n');
        let text = if self.terminal {
            visible(text)
        } else {
            Cow::Borrowed(text)
        };
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .map_err(Failure::Output)
    }

    /// A line.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.text(&format!("{text}\n"))
    }

    /// Ends the line, if one is open.
    pub fn end_line(&mut self) -> Result<(), Failure> {
        if self.line_open { self.text("\n") } else { Ok(()) }
    }

    /// A table, in the form that fits who reads it.
    pub fn table(&mut self, table: &Table) -> Result<(), Failure> {
        self.text(&if self.terminal {
            table.aligned()
        } else {
            table.tabbed()
        })
    }

    /// Names and values, in the form that fits who reads it.
    pub fn fields(&mut self, fields: &Fields) -> Result<(), Failure> {
        self.text(&if self.terminal {
            fields.aligned()
        } else {
            fields.tabbed()
        })
    }
}
