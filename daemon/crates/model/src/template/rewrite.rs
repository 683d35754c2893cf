//! Small changes to a template's source before it is compiled, where the compiled form comes too late.
//! Invariant: the source means the same afterwards, and no line moves.
//!
//! - The compiler folds constants, so `'a' * 100000000` would be built before any budget exists: a variable that is
//!   one goes between.
//! - `{% set ns.x = value %}` could tie values into rings or endless chains: the value passes a filter.
//! - Long chains of operators nest as deep as they are long, and the compiler recurses: they are refused.

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::TemplateError;

/// The variable that is one.
pub(super) const ONE: &str = "hyprstream_one";
/// The filter that every value kept in a namespace passes.
pub(super) const KEEP: &str = "hyprstream_keep";
/// What goes before and after such a value.
const KEEP_OPEN: &str = " (";
const KEEP_CLOSE: &str = ") | hyprstream_keep ";
const TIMES_ONE: &str = " hyprstream_one *";
/// Most tokens in one tag; long tags in use have about 100.
const TAG_TOKENS_MAX: usize = 2000;
/// Most branches of `elif`, each of which nests in the one before.
const ELIF_MAX: usize = 500;

/// A source that is safe to compile.
pub(super) struct Checked {
    pub(super) source: String,
    /// Assignments to attributes that are accounted for.
    pub(super) kept: usize,
}

/// What is known of the tag at hand.
#[derive(Default)]
struct Tag {
    tokens: usize,
    /// It is `{% set .. %}`.
    set: bool,
    /// Its target is an attribute.
    dotted: bool,
    /// The equals sign was there.
    assigned: bool,
    /// Open brackets.
    depth: usize,
    /// The last token can end an operand, so that `*` after it multiplies.
    operand: bool,
}

pub(super) fn checked(source: &str, syntax: SyntaxConfig) -> Result<Checked, TemplateError> {
    let refuse = |line: u16, message: &str| TemplateError::Syntax {
        line: line.into(),
        message: message.to_owned(),
    };
    let mut added: Vec<(usize, &str)> = Vec::new();
    let mut tag = Tag::default();
    let (mut kept, mut elifs) = (0, 0);
    for token in tokenize(source, false, syntax) {
        let (token, span) = token.map_err(|e| TemplateError::Syntax {
            line: e.line().unwrap_or(1),
            message: super::words(&e),
        })?;
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        tag.tokens += 1;
        if tag.tokens > TAG_TOKENS_MAX {
            return Err(refuse(span.start_line, "a tag is too long"));
        }
        match &token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => tag = Tag::default(),
            Token::Ident("set") if tag.tokens == 1 => tag.set = true,
            Token::Ident("elif") if tag.tokens == 1 => elifs += 1,
            Token::Dot if !tag.assigned => tag.dotted = true,
            Token::Assign if tag.set && !tag.assigned && tag.depth == 0 => {
                tag.assigned = true;
                if tag.dotted {
                    added.push((end, KEEP_OPEN));
                }
            }
            Token::BlockEnd if tag.set && tag.dotted => {
                kept += 1;
                if tag.assigned {
                    added.push((start, KEEP_CLOSE));
                }
            }
            Token::Mul if tag.operand => added.push((end, TIMES_ONE)),
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => tag.depth += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => {
                tag.depth = tag.depth.saturating_sub(1)
            }
            _ => {}
        }
        if elifs > ELIF_MAX {
            return Err(refuse(span.start_line, "too many elif"));
        }
        tag.operand = matches!(
            token,
            Token::Ident(_)
                | Token::Str(_)
                | Token::String(_)
                | Token::Int(_)
                | Token::Int128(_)
                | Token::Float(_)
                | Token::ParenClose
                | Token::BracketClose
                | Token::BraceClose
        );
    }
    Ok(Checked {
        source: insert(source, &added),
        kept,
    })
}

/// `added` is in the order of its places.
fn insert(source: &str, added: &[(usize, &str)]) -> String {
    let mut out = String::with_capacity(source.len() + added.len() * 24);
    let mut at = 0;
    for (place, text) in added {
        out.push_str(source.get(at..*place).unwrap_or_default());
        out.push_str(text);
        at = *place;
    }
    out.push_str(source.get(at..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(source: &str) -> String {
        checked(source, super::super::syntax()).unwrap().source
    }

    #[test]
    fn values_of_namespaces_pass_a_filter() {
        assert_eq!(
            rewritten("é{% set ns.x = a if b -%} c"),
            "é{% set ns.x = ( a if b ) | hyprstream_keep -%} c"
        );
        assert_eq!(
            rewritten("{% set x = a.b %}{% set ns.x %}c{% endset %}"),
            "{% set x = a.b %}{% set ns.x %}c{% endset %}"
        );
    }

    #[test]
    fn products_are_not_constant() {
        assert_eq!(
            rewritten("{{ 'a' * 3 }}*{{ f(*x) }}"),
            "{{ 'a' * hyprstream_one * 3 }}*{{ f(*x) }}"
        );
    }

    #[test]
    fn long_chains_are_refused() {
        let long = format!("{{{{ 'a'{} }}}}", " ~ 'a'".repeat(60_000));
        assert!(matches!(
            checked(&long, super::super::syntax()),
            Err(TemplateError::Syntax { line: 1, .. })
        ));
    }
}
