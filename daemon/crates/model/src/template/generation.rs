//! Removes `{% generation %}` marks, which only training reads.
//! Invariant: every other byte of the template, blanks around the marks included, acts as before.

/// The source with `{% generation %}` as `{% if true %}`: the same kind of tag, so that blanks are trimmed alike.
pub(super) fn without_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, after)) = rest.split_once("{%") {
        out.push_str(before);
        out.push_str("{%");
        rest = after;
        let Some((tag, tail)) = after.split_once("%}") else {
            continue;
        };
        let name = tag.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']);
        let instead = match name.trim() {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        let (head, foot) = tag.split_once(name).unwrap_or(("", ""));
        for part in [head, " ", instead, " ", foot, "%}"] {
            out.push_str(part);
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_marks_change() {
        assert_eq!(
            without_marks("a {%- generation -%} b {% endgeneration %}{% if x %}"),
            "a {%- if true -%} b {% endif %}{% if x %}"
        );
        assert_eq!(without_marks("{{ generation }}{%"), "{{ generation }}{%");
    }
}
