//! Cuts text into words before merging: the table of known pre-tokenizers, and the cut itself.
//! Invariant: no pattern, however hostile, holds the thread for longer than `SPLIT_TIME_MAX` a text.

use std::time::{Duration, Instant};

use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::tokenizer::pattern::{Invert, Pattern};
use tokenizers::{Offsets, PreTokenizedString, PreTokenizer, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::TokenizerError;

/// Longest time for one text; real patterns cut several megabytes a second.
const SPLIT_TIME_MAX: Duration = Duration::from_secs(10);
/// Steps back that one match may take. (The engine also stops at a million kept states, so at longer runs of blanks.)
const BACKTRACK_MAX: usize = 20_000_000;
/// Size of a compiled pattern in bytes.
const PATTERN_BYTES_MAX: usize = 16 << 20;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";

/// One row of the table: what a name in `tokenizer.ggml.pre` means.
#[derive(Debug)]
pub(super) struct Pre {
    names: &'static [&'static str],
    /// Cuts, one after the other.
    cuts: &'static [&'static str],
    /// A whole word that is a token is not merged from its parts.
    pub(super) ignore_merges: bool,
    /// The begin token goes first unless the file says otherwise.
    pub(super) add_bos: bool,
    /// Text is brought to Unicode's form C, as the model saw it in training.
    pub(super) nfc: bool,
}

/// Names and meanings as the converters of GGUF files use them.
const PRES: &[Pre] = &[
    Pre {
        names: &["gpt-2", "gpt2", "phi-2", "gigachat", "mellum", "exaone4"],
        cuts: &[GPT2],
        ignore_merges: false,
        add_bos: false,
        nfc: false,
    },
    Pre {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
        ],
        cuts: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        nfc: false,
    },
    Pre {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe", "glm4"],
        cuts: &[LLAMA3],
        ignore_merges: false,
        add_bos: false,
        nfc: false,
    },
    Pre {
        names: &["qwen2"],
        cuts: &[QWEN2],
        ignore_merges: false,
        add_bos: false,
        nfc: true,
    },
    Pre {
        names: &["stablelm2", "deepseek-r1-qwen", "megrez"],
        cuts: &[QWEN2],
        ignore_merges: false,
        add_bos: false,
        nfc: false,
    },
    Pre {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell"],
        cuts: &[DIGIT, GPT2],
        ignore_merges: false,
        add_bos: false,
        nfc: false,
    },
];

impl Pre {
    /// The row of a name; without one, an error that lists every name.
    pub(super) fn find(name: &str) -> Result<&'static Pre, TokenizerError> {
        PRES.iter()
            .find(|pre| pre.names.contains(&name))
            .ok_or_else(|| TokenizerError::UnsupportedPre {
                found: name.chars().take(80).collect(),
                supported: PRES
                    .iter()
                    .flat_map(|pre| pre.names)
                    .copied()
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    /// Its cuts, ready to use, then the alphabet of bytes.
    pub(super) fn stages(&self) -> Result<Vec<Stage>, TokenizerError> {
        let mut stages = Vec::with_capacity(self.cuts.len() + 1);
        for pattern in self.cuts {
            stages.push(Stage::Cut(Cut::new(
                pattern,
                SplitDelimiterBehavior::Isolated,
                false,
            )?));
        }
        let bytes = ByteLevel::default().add_prefix_space(false).use_regex(false);
        stages.push(Stage::Other(Box::new(bytes.into())));
        Ok(stages)
    }
}

/// One step of pre-tokenization.
#[derive(Debug)]
pub(super) enum Stage {
    /// A cut by pattern, bounded in time.
    Cut(Cut),
    /// Anything else that the `tokenizers` crate does.
    Other(Box<PreTokenizerWrapper>),
}

impl Stage {
    pub(super) fn apply(&self, text: &mut PreTokenizedString) -> Result<(), TokenizerError> {
        let done = match self {
            Stage::Cut(cut) => cut.apply(text),
            Stage::Other(other) => other.pre_tokenize(text),
        };
        done.map_err(|e| match e.downcast::<TokenizerError>() {
            Ok(own) => *own,
            Err(other) => TokenizerError::Library(other.to_string()),
        })
    }
}

/// A cut by regular expression.
#[derive(Debug)]
pub(super) struct Cut {
    pattern: fancy_regex::Regex,
    behavior: SplitDelimiterBehavior,
    invert: bool,
}

impl Cut {
    pub(super) fn new(
        pattern: &str,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    ) -> Result<Cut, TokenizerError> {
        let pattern = fancy_regex::RegexBuilder::new(pattern)
            .backtrack_limit(BACKTRACK_MAX)
            .delegate_size_limit(PATTERN_BYTES_MAX)
            .build()
            .map_err(|e| TokenizerError::Library(format!("word pattern: {e}")))?;
        Ok(Cut {
            pattern,
            behavior,
            invert,
        })
    }

    fn apply(&self, text: &mut PreTokenizedString) -> tokenizers::Result<()> {
        let until = Instant::now() + SPLIT_TIME_MAX;
        text.split(|_, part| {
            let bounded = Bounded {
                pattern: &self.pattern,
                until,
            };
            if self.invert {
                part.split(Invert(bounded), self.behavior)
            } else {
                part.split(bounded, self.behavior)
            }
        })
    }
}

/// The crate's own adapter takes an exhausted match for the end of the text; this one says so.
struct Bounded<'a> {
    pattern: &'a fancy_regex::Regex,
    until: Instant,
}

impl Pattern for Bounded<'_> {
    fn find_matches(&self, text: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        if text.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let mut found = Vec::with_capacity(text.len() / 4 + 1);
        let mut before = 0;
        for (count, one) in self.pattern.find_iter(text).enumerate() {
            let one = one.map_err(|_| TokenizerError::TooSlow)?;
            // A clock reading costs more than a match, so one in 64 is timed; each match is bounded by itself.
            if count % 64 == 0 && Instant::now() > self.until {
                return Err(TokenizerError::TooSlow.into());
            }
            if before != one.start() {
                found.push(((before, one.start()), false));
            }
            found.push(((one.start(), one.end()), true));
            before = one.end();
        }
        if before != text.len() {
            found.push(((before, text.len()), false));
        }
        Ok(found)
    }
}

/// The words of a cut text with the ids that they already have, for looking at in tests.
#[cfg(test)]
fn words(text: &PreTokenizedString) -> Vec<String> {
    text.get_splits(
        tokenizers::OffsetReferential::Original,
        tokenizers::OffsetType::None,
    )
    .into_iter()
    .map(|(word, _, _)| word.to_owned())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(name: &str, text: &str) -> Result<Vec<String>, TokenizerError> {
        let mut text = PreTokenizedString::from(text);
        for stage in Pre::find(name)?.stages()? {
            if matches!(stage, Stage::Cut(_)) {
                stage.apply(&mut text)?;
            }
        }
        Ok(words(&text))
    }

    #[test]
    fn rows_differ_in_digits() {
        assert_eq!(cut("gpt-2", "a 12345").unwrap(), ["a", " 12345"]);
        assert_eq!(cut("llama3", "a 12345").unwrap(), ["a", " ", "123", "45"]);
        assert_eq!(cut("qwen2", "a 123").unwrap(), ["a", " ", "1", "2", "3"]);
        assert_eq!(cut("smollm", "a 12").unwrap(), ["a", " ", "1", "2"]);
    }

    #[test]
    fn an_unknown_name_is_named_with_the_known_ones() {
        let said = Pre::find("jais-2").unwrap_err().to_string();
        assert!(
            said.contains("\"jais-2\"") && said.contains("llama-bpe"),
            "{said}"
        );
    }

    #[test]
    fn names_are_given_once() {
        let mut names: Vec<_> = PRES.iter().flat_map(|p| p.names).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(count, names.len());
    }

    #[test]
    fn a_catastrophic_pattern_ends() {
        let cut = Cut::new(r"(?:(x+)\1?)+y", SplitDelimiterBehavior::Isolated, false).unwrap();
        let start = Instant::now();
        let mut text = PreTokenizedString::from("x".repeat(2000));
        assert!(matches!(
            Stage::Cut(cut).apply(&mut text),
            Err(TokenizerError::TooSlow)
        ));
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
