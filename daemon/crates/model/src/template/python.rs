//! Values as Python writes them: what `{{ }}`, `~` and the `string` filter of jinja2 show.
//! Invariant: nesting is bounded by the walk that pays for the text.

use std::fmt::Write;

use minijinja::Error;
use minijinja::value::{Value, ValueKind};

use super::bounds::Work;

/// `str(value)`; undefined is nothing.
pub(super) fn text(value: &Value, work: &Work) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    work.walk(value)?;
    let mut out = String::new();
    if !value.is_undefined() {
        repr(value, work, &mut out)?;
    }
    Ok(out)
}

fn repr(value: &Value, work: &Work, out: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => number(value, out),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            work.charge(text.len())?;
            quoted(text, out);
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let mut count = 0;
            for item in value.try_iter()? {
                if count > 0 {
                    out.push_str(", ");
                }
                repr(&item, work, out)?;
                count += 1;
            }
            if count == 1 && value.is_tuple() {
                out.push(',');
            }
            out.push(close);
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                repr(&key, work, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, work, out)?;
            }
            out.push('}');
        }
        _ => {
            // Macros and functions; Python shows an address here, which no template can want.
            let _ = write!(out, "{value}");
        }
    }
    Ok(())
}

/// A number as Python writes it, in text and in JSON alike.
pub(super) fn number(value: &Value, out: &mut String) {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => out.push_str(&float_repr(float)),
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

/// `repr(float)`: the shortest digits; an exponent below 1e-4 and from 1e16 on.
fn float_repr(float: f64) -> String {
    if !float.is_finite() {
        return if float.is_nan() {
            "nan".into()
        } else if float > 0.0 {
            "inf".into()
        } else {
            "-inf".into()
        };
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if float != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{float}");
    if plain.contains('.') { plain } else { plain + ".0" }
}

/// `repr(str)`.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || (0x7F..0xA1).contains(&(c as u32)) || c as u32 == 0xAD => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: serde_json::Value) -> String {
        text(&super::super::from_json(&value), &Work::new(0)).unwrap()
    }

    #[test]
    fn values_read_as_in_python() {
        assert_eq!(
            shown(serde_json::json!(["a'b", 1, 1.0, true, null])),
            r#"["a'b", 1, 1.0, True, None]"#
        );
        assert_eq!(
            shown(serde_json::json!({"k": {"é": "x\ny"}})),
            r"{'k': {'é': 'x\ny'}}"
        );
        assert_eq!(shown(serde_json::json!(1e16)), "1e+16");
        assert_eq!(shown(serde_json::json!(1e-5)), "1e-05");
        assert_eq!(shown(serde_json::json!(123456789.125)), "123456789.125");
        assert_eq!(shown(serde_json::json!(-0.0)), "-0.0");
        assert_eq!(shown(serde_json::json!(true)), "True");
    }
}
