//! Reads one TOML file over a configuration. Invariant: every complaint names file, line, column and key, and one run
//! finds all of them.
use super::Config;
use super::keys::{KEYS, Key};
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// No sane configuration is larger, and a larger one is not read.
const FILE_BYTES_MAX: u64 = 1 << 20;
const SYNTAX_ERRORS_SHOWN: usize = 10;

/// One complaint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Line and column, counted from 1, where the complaint has a place.
    pub at: Option<(usize, usize)>,
    /// What is wrong and what would be right.
    pub message: String,
}

/// All complaints of a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some((line, column)) = self.at {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// The files to read, least important first, and whether each must exist.
pub(super) fn layers(main: &Path, named: bool, errors: &mut Vec<ConfigError>) -> Vec<(PathBuf, bool)> {
    let folder = main.with_extension("d");
    let mut layers = vec![(main.to_owned(), named)];
    let mut drop_ins = Vec::new();
    match fs::read_dir(&folder) {
        Ok(entries) => {
            let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
            drop_ins.extend(paths.filter(|path| path.extension().is_some_and(|end| end == "toml")));
        }
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) => {}
        Err(error) => errors.push(unreadable(&folder, &error)),
    }
    drop_ins.sort();
    layers.extend(drop_ins.into_iter().map(|path| (path, true)));
    layers
}

/// Reads `path` over `config`.
pub(super) fn apply(config: &mut Config, path: &Path, must_exist: bool, errors: &mut Vec<ConfigError>) {
    let text = match read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => return,
        Err(error) => return errors.push(unreadable(path, &error)),
    };
    apply_text(config, path, &text, errors);
}

fn read(path: &Path) -> io::Result<String> {
    let mut file = hyprstream_model::open_regular(path)?;
    if file.metadata()?.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "larger than 1 MiB, which no configuration needs",
        ));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    ConfigError {
        file: path.to_owned(),
        at: None,
        message: format!("cannot be read: {error}"),
    }
}

/// The last file that sets a key, and where in it; the main file where none does.
pub(super) fn where_set(
    main: &Path,
    named: bool,
    section: &str,
    key: &str,
) -> (PathBuf, Option<(usize, usize)>) {
    let mut found = (main.to_owned(), None);
    for (path, _) in layers(main, named, &mut Vec::new()) {
        let Ok(text) = read(&path) else { continue };
        let (table, _) = DeTable::parse_recoverable(&text);
        let section = table.get_ref().get(section).map(Spanned::get_ref);
        let value = match section {
            Some(DeValue::Table(entries)) => entries.get(key),
            _ => None,
        };
        if let Some(value) = value {
            found = (path, Some(position(&text, start(value))));
        }
    }
    found
}

/// Reads TOML text over `config`; `path` is for messages.
pub(super) fn apply_text(config: &mut Config, path: &Path, text: &str, errors: &mut Vec<ConfigError>) {
    let mut own = Vec::new();
    check_text(config, path, text, &mut own);
    // The parser sorts by name; people read from the top.
    own.sort_by_key(|error| error.at);
    errors.append(&mut own);
}

fn check_text(config: &mut Config, path: &Path, text: &str, errors: &mut Vec<ConfigError>) {
    let mut complain = |offset: Option<usize>, message: String| {
        errors.push(ConfigError {
            file: path.to_owned(),
            at: offset.map(|at| position(text, at)),
            message,
        });
    };
    let (table, syntax) = DeTable::parse_recoverable(text);
    for error in syntax.iter().take(SYNTAX_ERRORS_SHOWN) {
        // The parser says "duplicate key" and leaves it to its caller to say which.
        let rest = error
            .span()
            .and_then(|span| text.get(span.start..))
            .unwrap_or_default();
        let word: String = rest
            .chars()
            .take_while(|c| !c.is_whitespace() && *c != '=')
            .take(40)
            .collect();
        let at = if word.is_empty() {
            String::new()
        } else {
            format!(" at `{word}`")
        };
        let message = format!("{}{at}", error.message().trim());
        complain(error.span().map(|span| span.start), message);
    }
    if !syntax.is_empty() {
        return;
    }
    for (name, value) in table.get_ref() {
        let section = name.get_ref().as_ref();
        if !KEYS.iter().any(|key| key.section == section) {
            complain(
                Some(name.span().start),
                format!("unknown section or key `{section}`; {}", sections()),
            );
            continue;
        }
        let DeValue::Table(entries) = value.get_ref() else {
            complain(
                Some(name.span().start),
                format!("`{section}` must be a section: [{section}]"),
            );
            continue;
        };
        apply_section(config, section, entries, &mut complain);
    }
}

fn apply_section(
    config: &mut Config,
    section: &str,
    entries: &DeTable<'_>,
    complain: &mut dyn FnMut(Option<usize>, String),
) {
    for (name, value) in entries {
        let key = name.get_ref().as_ref();
        match find(section, key) {
            None => {
                let known: Vec<_> = KEYS
                    .iter()
                    .filter(|k| k.section == section)
                    .map(|k| k.name)
                    .collect();
                let known = known.join(", ");
                let at = name.span().start;
                complain(
                    Some(at),
                    format!("unknown key `{section}.{key}`; [{section}] has {known}"),
                );
            }
            Some(known) => {
                if let Err(wrong) = (known.set)(config, value.get_ref()) {
                    complain(Some(start(value)), format!("`{section}.{key}`: {wrong}"));
                }
            }
        }
    }
}

fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

fn start(value: &Spanned<DeValue<'_>>) -> usize {
    value.span().start
}

fn sections() -> String {
    let mut names: Vec<_> = KEYS.iter().map(|key| format!("[{}]", key.section)).collect();
    names.dedup();
    format!("the sections are {}", names.join(", "))
}

/// Line and column of a byte offset, both from 1, the column in characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |tail| tail.chars().count()) + 1;
    (line, column)
}
