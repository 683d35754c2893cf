//! `tojson` as `transformers` defines it: Python's `json.dumps` with non-ASCII kept and keys in their order.
//! Invariant: the text is paid for as it is written.

use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::bounds::Work;
use super::python;

struct Style {
    ascii: bool,
    sorted: bool,
    /// One level of indentation; none is all in one line.
    indent: Option<String>,
    item: String,
    key: String,
}

/// The filter: `x | tojson(ensure_ascii, indent, separators, sort_keys)`.
pub(super) fn tojson(
    value: &Value,
    args: &Rest<Value>,
    kwargs: &Kwargs,
    work: &Work,
) -> Result<String, Error> {
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        Ok(args
            .get(index)
            .cloned()
            .or(kwargs.get::<Option<Value>>(name)?)
            .filter(|v| !v.is_none()))
    };
    let ascii = argument(0, "ensure_ascii")?.is_some_and(|v| v.is_true());
    let indent = match argument(1, "indent")? {
        None => None,
        Some(text) if text.as_str().is_some() => Some(python::text(&text, work)?),
        Some(width) => Some(" ".repeat(width.as_usize().unwrap_or(0).min(64))),
    };
    let (mut item, mut key) = (
        String::from(if indent.is_some() { "," } else { ", " }),
        String::from(": "),
    );
    if let Some(pair) = argument(2, "separators")? {
        item = python::text(&pair.get_item_by_index(0)?, work)?;
        key = python::text(&pair.get_item_by_index(1)?, work)?;
    }
    let sorted = argument(3, "sort_keys")?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    work.walk(value)?;
    let mut out = String::new();
    write(
        value,
        &Style {
            ascii,
            sorted,
            indent,
            item,
            key,
        },
        0,
        work,
        &mut out,
    )?;
    Ok(out)
}

fn write(value: &Value, style: &Style, level: usize, work: &Work, out: &mut String) -> Result<(), Error> {
    let before = out.len();
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => number(value, out),
        ValueKind::String => string(value.as_str().unwrap_or_default(), style.ascii, out),
        ValueKind::Seq | ValueKind::Iterable => return write_list(value, style, level, work, out),
        ValueKind::Map => return write_map(value, style, level, work, out),
        other => {
            let message = format!("Object of type {other} is not JSON serializable");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    }
    work.charge(out.len() - before)
}

fn write_list(
    value: &Value,
    style: &Style,
    level: usize,
    work: &Work,
    out: &mut String,
) -> Result<(), Error> {
    out.push('[');
    let mut any = false;
    for item in value.try_iter()? {
        separate(style, level + 1, any, work, out)?;
        write(&item, style, level + 1, work, out)?;
        any = true;
    }
    close(style, level, any, ']', out);
    Ok(())
}

fn write_map(value: &Value, style: &Style, level: usize, work: &Work, out: &mut String) -> Result<(), Error> {
    out.push('{');
    let mut keys: Vec<Value> = value.try_iter()?.collect();
    if style.sorted {
        keys.sort();
    }
    let mut any = false;
    for key in keys {
        separate(style, level + 1, any, work, out)?;
        match key.kind() {
            ValueKind::String => string(key.as_str().unwrap_or_default(), style.ascii, out),
            _ => {
                out.push('"');
                write(&key, style, level + 1, work, out)?;
                out.push('"');
            }
        }
        out.push_str(&style.key);
        write(&value.get_item(&key)?, style, level + 1, work, out)?;
        any = true;
    }
    close(style, level, any, '}', out);
    Ok(())
}

/// What stands before an entry.
fn separate(style: &Style, level: usize, any: bool, work: &Work, out: &mut String) -> Result<(), Error> {
    let width = style
        .indent
        .as_ref()
        .map_or(0, |indent| indent.len().saturating_mul(level) + 1);
    work.charge(style.item.len().saturating_add(width))?;
    if any {
        out.push_str(&style.item);
    }
    line(style, level, out);
    Ok(())
}

fn close(style: &Style, level: usize, any: bool, bracket: char, out: &mut String) {
    if any {
        line(style, level, out);
    }
    out.push(bracket);
}

fn line(style: &Style, level: usize, out: &mut String) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        for _ in 0..level {
            out.push_str(indent);
        }
    }
}

fn number(value: &Value, out: &mut String) {
    let start = out.len();
    python::number(value, out);
    let as_json = match out.get(start..) {
        Some("nan") => "NaN",
        Some("inf") => "Infinity",
        Some("-inf") => "-Infinity",
        _ => return,
    };
    out.truncate(start);
    out.push_str(as_json);
}

fn string(text: &str, ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ascii && !matches!(c, ' '..='~')) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
