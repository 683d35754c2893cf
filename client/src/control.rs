//! Takes control characters out of texts for terminals and messages. Invariant: what comes out cannot steer a terminal.
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

/// The text on one line: for cells, where a tab or line end would break the form.
pub fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_show() {
        assert_eq!(visible("a\tb\nc"), "a\tb\nc");
        assert_eq!(visible("\x1b]0;x\x07\u{9b}\x7f"), "␛]0;x␇\u{fffd}␡");
    }
}
