//! Takes control characters out of texts for terminals and messages. Invariant: what comes out cannot steer a terminal.
use hyprstream_protocol::is_steering;
use std::borrow::Cow;

/// The text with control characters (but line ends and tabs) made visible: a model's answer may not move the cursor, rename
/// the window or fill the clipboard.
pub fn visible(text: &str) -> Cow<'_, str> {
    let bad = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.chars()
            .map(|c| if bad(c) { picture(c) } else { c })
            .collect(),
    )
}

fn picture(c: char) -> char {
    match u32::from(c) {
        code @ 0..=0x1f => char::from_u32(0x2400 + code).unwrap_or('\u{fffd}'),
        0x7f => '\u{2421}',
        _ => '\u{fffd}',
    }
}

/// A message with names in it, which may not read as other names either: [`visible`], and the direction of text stays.
pub fn unturned(text: &str) -> String {
    let turns = |c: char| is_steering(c) && !c.is_control();
    let kept = |c: char| if turns(c) { char::REPLACEMENT_CHARACTER } else { c };
    visible(text).chars().map(kept).collect()
}

/// The text on one line: for cells, where a tab or line end would break the form.
pub fn one_line(text: &str) -> String {
    let spaced: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    unturned(&spaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_show() {
        assert_eq!(visible("a\tb\nc"), "a\tb\nc");
        assert_eq!(unturned("a\u{202e}\x1b\n"), "a\u{fffd}␛\n");
        assert_eq!(one_line("a\tb\u{2066}c"), "a b\u{fffd}c");
        assert_eq!(visible("\x1b]0;x\x07\u{9b}\x7f"), "␛]0;x␇\u{fffd}␡");
    }
}
