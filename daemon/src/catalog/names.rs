//! Names of models: made from paths, found from what people type. Invariant: one name, one model.
use super::entry::Entry;
use crate::said::said;
use hyprstream_protocol::is_steering;
use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::Arc;

const NEAR_SHOWN: usize = 5;
const NAME_BYTES_MAX: usize = 512;

/// The name of a model at `path` below its models folder; `Err` says why the path gives none.
pub fn from_path(below: &Path) -> Result<String, &'static str> {
    let mut parts = Vec::new();
    for component in below.components() {
        let Component::Normal(part) = component else {
            return Err("its path is not plain");
        };
        parts.push(part.to_str().ok_or("its name is not UTF-8")?);
    }
    let joined = parts.join("/");
    let name = strip_gguf(&joined);
    if name.chars().any(is_steering) {
        return Err("its name has control characters, or ones that turn the direction of text");
    }
    if name.trim().is_empty() || name.ends_with('/') || name.len() > NAME_BYTES_MAX {
        return Err("its name is empty or too long");
    }
    Ok(name.to_owned())
}

fn strip_gguf(name: &str) -> &str {
    match name.len().checked_sub(5).and_then(|at| name.split_at_checked(at)) {
        Some((stem, end)) if end.eq_ignore_ascii_case(".gguf") => stem,
        _ => name,
    }
}

/// Puts entries under their names; the second of two equal names becomes `NAME~2`.
pub fn unique(entries: Vec<Entry>) -> BTreeMap<String, Arc<Entry>> {
    let mut named = BTreeMap::new();
    for mut entry in entries {
        let mut number = 2u32;
        let plain = entry.name.clone();
        while named.contains_key(&entry.name) {
            entry.name = format!("{plain}~{number}");
            number = number.saturating_add(1);
        }
        named.insert(entry.name.clone(), Arc::new(entry));
    }
    named
}

/// Why a name leads to no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// It is the start of several names.
    #[error("{wanted:?} could be any of: {}; write more of the name", .candidates.join(", "))]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// What it could mean.
        candidates: Vec<String>,
    },
    /// It is the start of no name.
    #[error("there is no model {wanted:?}{}; `hyp models` lists all", did_you_mean(.near))]
    Unknown {
        /// What was asked for.
        wanted: String,
        /// Names that look like it.
        near: Vec<String>,
    },
}

fn did_you_mean(near: &[String]) -> String {
    match near {
        [] => String::new(),
        _ => format!(" (did you mean {}?)", near.join(", ")),
    }
}

/// Finds a model by its name, by its name in another case, or by a start of it that only one name has.
pub fn resolve<'a>(
    wanted: &str,
    entries: &'a BTreeMap<String, Arc<Entry>>,
) -> Result<&'a Arc<Entry>, Unresolved> {
    resolve_name(wanted, entries.keys()).map(|name| &entries[name])
}

fn resolve_name<'a>(
    wanted: &str,
    names: impl Iterator<Item = &'a String> + Clone,
) -> Result<&'a String, Unresolved> {
    let stem = strip_gguf(wanted);
    if let Some(name) = names.clone().find(|name| *name == wanted || *name == stem) {
        return Ok(name);
    }
    let lower = stem.to_lowercase();
    let mut same = names.clone().filter(|name| name.to_lowercase() == lower);
    if let (Some(name), None) = (same.next(), same.next()) {
        return Ok(name);
    }
    let starts: Vec<_> = names
        .clone()
        .filter(|name| name.to_lowercase().starts_with(&lower))
        .collect();
    match starts.as_slice() {
        [name] if !stem.is_empty() => Ok(name),
        [] => Err(Unresolved::Unknown {
            wanted: said(wanted),
            near: near(&lower, names),
        }),
        _ => {
            let candidates = starts
                .iter()
                .take(NEAR_SHOWN)
                .map(|name| (*name).clone())
                .collect();
            Err(Unresolved::Ambiguous {
                wanted: said(wanted),
                candidates,
            })
        }
    }
}

fn near<'a>(lower: &str, names: impl Iterator<Item = &'a String>) -> Vec<String> {
    if lower.is_empty() || lower.len() > NAME_BYTES_MAX {
        return Vec::new();
    }
    let mut scored: Vec<(usize, &String)> = names
        .filter_map(|name| {
            let other = name.to_lowercase();
            let last = other.rsplit('/').next().unwrap_or(&other);
            let distance = match other.contains(lower) {
                true => 0,
                false => edits(lower, &other).min(edits(lower, last)),
            };
            (distance <= 1 + lower.chars().count() / 3).then_some((distance, name))
        })
        .collect();
    scored.sort();
    scored
        .into_iter()
        .take(NEAR_SHOWN)
        .map(|(_, name)| name.clone())
        .collect()
}

/// Levenshtein distance: the fewest single characters to insert, drop or change.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = i;
        let mut left = i + 1;
        for (y, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            left = (corner + usize::from(x != *y)).min(above + 1).min(left + 1);
            corner = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(wanted: &str, names: &[&str]) -> Result<String, Unresolved> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        resolve_name(wanted, names.iter()).cloned()
    }

    #[test]
    fn exact_beats_case_beats_prefix() {
        let names = ["Qwen3", "qwen3-0.6b", "qwen3-8b", "team/Llama"];
        assert_eq!(find("qwen3-8b", &names).unwrap(), "qwen3-8b");
        assert_eq!(find("qwen3-8b.gguf", &names).unwrap(), "qwen3-8b");
        assert_eq!(find("qwen3", &names).unwrap(), "Qwen3");
        assert_eq!(find("QWEN3-0", &names).unwrap(), "qwen3-0.6b");
        assert_eq!(find("team/l", &names).unwrap(), "team/Llama");
    }

    #[test]
    fn ambiguous_and_unknown_names_are_helpful() {
        let names = ["qwen3-0.6b", "qwen3-8b", "team/llama"];
        let error = find("qwen", &names).unwrap_err();
        assert!(matches!(&error, Unresolved::Ambiguous { candidates, .. } if candidates.len() == 2));
        assert!(error.to_string().contains("qwen3-0.6b, qwen3-8b"), "{error}");
        let error = find("lama", &names).unwrap_err();
        assert!(error.to_string().contains("did you mean team/llama?"), "{error}");
        let error = find("gpt-4", &names).unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no model \"gpt-4\"; `hyp models` lists all"
        );
        assert!(find("", &names).is_err());
        assert!(find("", &["only"]).is_err());
        assert!(find(".gguf", &["only"]).is_err());
        assert!(find("é", &names).is_err());
    }

    #[test]
    fn names_come_from_paths() {
        assert_eq!(from_path(Path::new("a/b.gguf")).unwrap(), "a/b");
        assert_eq!(from_path(Path::new("B.GGUF")).unwrap(), "B");
        assert_eq!(from_path(Path::new("folder")).unwrap(), "folder");
        assert!(from_path(Path::new("a/.gguf")).is_err());
        assert!(from_path(Path::new(" .gguf")).is_err());
        assert!(from_path(Path::new("\u{a0}")).is_err());
        assert!(from_path(Path::new("a\nb.gguf")).is_err());
        assert!(from_path(Path::new("a\u{202e}b.gguf")).is_err());
        assert!(from_path(Path::new("../b.gguf")).is_err());
        assert_eq!(edits("kitten", "sitting"), 3);
    }
}
