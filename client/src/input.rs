//! Gets the text that a command works on. Invariant: the text is whole and valid UTF-8, or there is none; nothing is ever cut
//! or replaced silently.
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

/// Most bytes that are read. The daemon's own limit (`[http] body_max`) is usually lower and is told by its error.
pub const INPUT_BYTES_MAX: u64 = 64 << 20;

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The file or stream cannot be read.
    #[error("cannot read {name}: {source}")]
    Io {
        /// What was read.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// More than [`INPUT_BYTES_MAX`].
    #[error("{name} is longer than {} MiB", INPUT_BYTES_MAX >> 20)]
    TooLong {
        /// What was read.
        name: String,
    },
    /// Bytes that are no UTF-8.
    #[error("{name} is not UTF-8 text: byte {at} (counted from 0) is wrong")]
    NotUtf8 {
        /// What was read.
        name: String,
        /// Offset of the first bad byte.
        at: usize,
    },
    /// A file of token ids has something else in it.
    #[error("{name} is not a list of token ids: {word:?}")]
    NotIds {
        /// What was read.
        name: String,
        /// The first word that is no id.
        word: String,
    },
}

impl InputError {
    /// The exit code: 1 for what cannot be read, 7 for what cannot be used.
    pub fn exit_code(&self) -> u8 {
        match self {
            InputError::Io { .. } => 1,
            InputError::TooLong { .. } | InputError::NotUtf8 { .. } | InputError::NotIds { .. } => 7,
        }
    }

    /// What to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            InputError::NotUtf8 { .. } => Some("convert it with `iconv -f ENCODING -t UTF-8`".to_owned()),
            InputError::Io { .. } | InputError::TooLong { .. } | InputError::NotIds { .. } => None,
        }
    }
}

/// Words of the command line and, where it is no terminal, standard input: what `hyp ask` sends. `None` where both are empty.
pub fn question(words: &[String]) -> Result<Option<String>, InputError> {
    let piped = if io::stdin().is_terminal() {
        None
    } else {
        Some(stdin()?)
    };
    Ok(join(words, piped))
}

fn join(words: &[String], piped: Option<String>) -> Option<String> {
    let words = Some(words.join(" ")).filter(|text| !text.trim().is_empty());
    let piped = piped.filter(|text| !text.trim().is_empty()).map(|mut text| {
        // As `$(...)` does it, but for one line end only: what echo and editors add is not meant.
        if text.ends_with('\n') {
            text.pop();
            if text.ends_with('\r') {
                text.pop();
            }
        }
        text
    });
    match (words, piped) {
        (Some(words), Some(piped)) => Some(format!("{words}\n\n{piped}")),
        (words, piped) => words.or(piped),
    }
}

/// All of standard input, byte for byte.
pub fn stdin() -> Result<String, InputError> {
    read(io::stdin().lock(), "standard input")
}

/// All of a file, byte for byte; `-` is standard input.
pub fn file(path: &Path) -> Result<String, InputError> {
    if path == Path::new("-") {
        return stdin();
    }
    let name = path.display().to_string();
    let file = File::open(path).map_err(|source| InputError::Io {
        name: name.clone(),
        source,
    })?;
    read(file, &name)
}

/// Token ids, separated by white space or commas.
pub fn ids(text: &str, name: &str) -> Result<Vec<u32>, InputError> {
    text.split(|c: char| c.is_whitespace() || c == ',')
        .filter(|word| !word.is_empty())
        .map(|word| {
            word.parse().map_err(|_| InputError::NotIds {
                name: name.to_owned(),
                word: word.chars().take(20).collect(),
            })
        })
        .collect()
}

fn read(source: impl Read, name: &str) -> Result<String, InputError> {
    let mut bytes = Vec::new();
    source
        .take(INPUT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| InputError::Io {
            name: name.to_owned(),
            source,
        })?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(InputError::TooLong {
            name: name.to_owned(),
        });
    }
    String::from_utf8(bytes).map_err(|error| InputError::NotUtf8 {
        name: name.to_owned(),
        at: error.utf8_error().valid_up_to(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &[&str]) -> Vec<String> {
        text.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn words_and_stdin_are_joined_by_a_blank_line() {
        assert_eq!(
            join(&words(&["write", "it"]), Some("diff\n".into())).unwrap(),
            "write it\n\ndiff"
        );
        assert_eq!(
            join(&words(&["write", "it"]), Some("\n".into())).unwrap(),
            "write it"
        );
        assert_eq!(join(&[], Some("a\r\n".into())).unwrap(), "a");
        assert_eq!(join(&[], Some("a\n\n".into())).unwrap(), "a\n");
        assert_eq!(join(&words(&[" "]), None), None);
    }

    #[test]
    fn bad_utf8_is_named_by_offset() {
        let error = read(&b"abc\xff"[..], "f").unwrap_err();
        assert_eq!(
            error.to_string(),
            "f is not UTF-8 text: byte 3 (counted from 0) is wrong"
        );
        assert_eq!(error.exit_code(), 7);
    }

    #[test]
    fn endless_input_is_refused() {
        assert!(matches!(
            read(io::repeat(b'x'), "f"),
            Err(InputError::TooLong { .. })
        ));
    }

    #[test]
    fn ids_are_numbers() {
        assert_eq!(ids(" 1, 2\n3,4 ", "f").unwrap(), [1, 2, 3, 4]);
        assert!(ids("1 -2", "f").is_err());
        assert!(ids("4294967296", "f").is_err());
    }
}
