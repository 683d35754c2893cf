//! Which tokens end an answer.
//! Invariant: only marks of the vocabulary count; the same characters written as plain text end nothing.

/// Marks that end a turn or a text, as the tokenizers of published models call them.
const ENDS: &[&str] = &[
    "</s>",
    "<eos>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|eot|>",
    "<|eom|>",
    "<EOT>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<|end_of_turn|>",
    "<|return|>",
    "<|call|>",
    "<｜end▁of▁sentence｜>",
    "[EOS]",
];

/// In vocabularies with these two, `<|end|>` only closes one part of an answer.
const PARTS: [&str; 2] = ["<|return|>", "<|call|>"];

/// Ids that end an answer: those that the file names, and well-known marks. `mark` finds a mark's id.
pub(super) fn end_ids(named: &[Option<u32>], mark: impl Fn(&str) -> Option<u32>) -> Vec<u32> {
    let in_parts = PARTS.iter().all(|part| mark(part).is_some());
    let mut ids: Vec<u32> = named.iter().copied().flatten().collect();
    ids.extend(
        ENDS.iter()
            .filter(|end| !(in_parts && **end == "<|end|>"))
            .filter_map(|end| mark(end)),
    );
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_not_the_end_where_answers_have_parts() {
        let harmony = |text: &str| match text {
            "<|return|>" => Some(1),
            "<|call|>" => Some(2),
            "<|end|>" => Some(3),
            _ => None,
        };
        assert_eq!(end_ids(&[None, Some(1)], harmony), [1, 2]);
        assert_eq!(end_ids(&[], |text| (text == "<|end|>").then_some(3)), [3]);
    }
}
