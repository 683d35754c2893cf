//! A client's own words, as errors repeat them. Invariant: what comes out is short, and cannot steer a terminal.
use hyprstream_protocol::is_steering;

/// No name of ours is longer, and who sent more knows the rest.
const CHARS_MAX: usize = 300;

/// The beginning of what a client said, or had a part in.
pub fn said(text: &str) -> String {
    let mut chars = text.chars();
    let plain = |c: char| {
        if is_steering(c) {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    let mut shown: String = chars.by_ref().take(CHARS_MAX).map(plain).collect();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_and_steering_ones_blunted() {
        let exact = "ä".repeat(CHARS_MAX);
        assert_eq!(said(&exact), exact);
        assert_eq!(said(&format!("{exact}b")), format!("{exact}…"));
        assert_eq!(said("a\x1b[2J\u{202e}b\u{9b}"), "a�[2J�b�");
    }
}
