//! Filters, tests and methods of jinja2 and Python that templates use, each paying for what it makes.
//! Invariant: what can grow its input is either paid for before it runs, or not there.

use std::sync::{Arc, LazyLock};

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use super::bounds::Work;
use super::{json, operators, python, rewrite};

/// The engine's own filters, to call from ours.
static BUILTIN: LazyLock<Environment<'static>> = LazyLock::new(Environment::new);

/// Filters that make at most a few times what they are given.
const LINEAR: &[&str] = &[
    "batch",
    "capitalize",
    "chain",
    "dictsort",
    "e",
    "escape",
    "groupby",
    "indent",
    "lines",
    "list",
    "lower",
    "max",
    "min",
    "replace",
    "reverse",
    "slice",
    "sort",
    "split",
    "title",
    "trim",
    "unique",
    "upper",
    "zip",
];

/// Puts our filters, tests and methods over the engine's.
pub(super) fn install(env: &mut Environment<'static>, work: &Arc<Work>) {
    // `pprint`, `debug` and printf-like widths have no use in a chat template.
    env.remove_filter("pprint");
    env.remove_filter("format");
    env.remove_global("debug");
    for name in LINEAR {
        let work = Arc::clone(work);
        env.add_filter(*name, move |args: Rest<Value>, named: Kwargs| {
            linear(name, &all(args, named), &work)
        });
    }
    install_namespaces(env, work);
    let own = Arc::clone(work);
    env.add_filter(
        "tojson",
        move |value: &Value, args: Rest<Value>, kwargs: Kwargs| json::tojson(value, &args, &kwargs, &own),
    );
    let own = Arc::clone(work);
    env.add_filter("string", move |value: &Value| -> Result<Value, Error> {
        let text = python::text(value, &own)?;
        own.charge(text.len())?;
        Ok(text.into())
    });
    let own = Arc::clone(work);
    env.add_filter(
        "join",
        move |value: &Value, glue: Option<Value>, kwargs: Kwargs| join_filter(value, glue, &kwargs, &own),
    );
    let own = Arc::clone(work);
    env.add_filter("sum", move |value: &Value, kwargs: Kwargs| {
        sum(value, &kwargs, &own)
    });
    for (name, wanted) in [
        ("eq", true),
        ("equalto", true),
        ("==", true),
        ("ne", false),
        ("!=", false),
    ] {
        let own = Arc::clone(work);
        env.add_test(name, move |left: &Value, right: &Value| -> Result<bool, Error> {
            Ok(operators::equal(left, right, &own)? == wanted)
        });
    }
    let own = Arc::clone(work);
    env.set_unknown_method_callback(move |state, value, name, args| method(state, value, name, args, &own));
}

/// Arguments as they came: those with names go last, in one value.
fn all(args: Rest<Value>, named: Kwargs) -> Vec<Value> {
    let mut all = args.0;
    if named.args().next().is_some() {
        all.push(named.into());
    }
    all
}

/// Makes sure that namespaces, which can change, never become part of another value.
fn install_namespaces(env: &mut Environment<'static>, work: &Arc<Work>) {
    for name in ["dict", "namespace"] {
        let work = Arc::clone(work);
        env.add_function(
            name,
            move |args: Rest<Value>, named: Kwargs| -> Result<Value, Error> {
                let args = all(args, named);
                args.iter().try_for_each(|arg| work.walk_part(arg))?;
                let mut state = BUILTIN.empty_state();
                let builtin = state.lookup(name).unwrap_or_default();
                builtin.call(&mut state, &args)
            },
        );
    }
    let own = Arc::clone(work);
    env.add_filter(rewrite::KEEP, move |value: Value| -> Result<Value, Error> {
        own.walk_part(&value)?;
        // What is made on demand would hold on to what it is made from, and that to what came before.
        Ok(if value.kind() == ValueKind::Iterable {
            value.try_iter()?.collect::<Vec<_>>().into()
        } else {
            value
        })
    });
}

/// Runs one of the engine's filters: walks what it will walk, pays for what it may make beyond its input, then for
/// what it made.
fn linear(name: &str, args: &[Value], work: &Work) -> Result<Value, Error> {
    let value = args.first().cloned().unwrap_or_default();
    if matches!(name, "sort" | "dictsort" | "unique" | "groupby" | "min" | "max") {
        work.walk(&value)?;
    }
    work.charge(growth(name, &value, args)?)?;
    let made = BUILTIN.empty_state().apply_filter(name, args)?;
    if matches!(name, "batch" | "slice" | "zip" | "chain" | "groupby" | "dictsort") {
        work.walk(&made)?;
    }
    work.charge_value(&made)?;
    Ok(made)
}

/// Bytes that a filter may make beyond a few times its input.
fn growth(name: &str, value: &Value, args: &[Value]) -> Result<usize, Error> {
    let text = |index: usize| args.get(index).and_then(|v| v.as_str()).unwrap_or_default();
    let count = |index: usize, name: &str| {
        let by_name = || {
            args.last()
                .filter(|v| v.is_kwargs())
                .and_then(|v| v.get_attr(name).ok()?.as_usize())
        };
        args.get(index)
            .and_then(Value::as_usize)
            .or_else(by_name)
            .unwrap_or(0)
    };
    Ok(match name {
        "replace" => grown(text(0), text(1), text(2)),
        "indent" => (text(0).matches('\n').count() + 1).saturating_mul(count(1, "width")),
        "batch" | "slice" => {
            let each = size_of::<Value>().saturating_mul(2);
            count(1, "count")
                .saturating_mul(each)
                .saturating_add(value.len().unwrap_or(0).saturating_mul(each))
        }
        "title" | "upper" | "lower" | "capitalize" => text(0).len().saturating_mul(2),
        "e" | "escape" => text(0).len().saturating_mul(6),
        "list" => text(0).len().saturating_mul(size_of::<Value>()),
        _ => 0,
    })
}

/// Bytes of `text` with every `old` replaced by `new`.
fn grown(text: &str, old: &str, new: &str) -> usize {
    text.len()
        .saturating_add(text.matches(old).count().saturating_mul(new.len()))
}

fn join_filter(value: &Value, glue: Option<Value>, kwargs: &Kwargs, work: &Work) -> Result<Value, Error> {
    let glue = glue.or(kwargs.get("d")?);
    let attribute: Option<Value> = kwargs.get("attribute")?;
    kwargs.assert_all_used()?;
    join(value, &glue.unwrap_or_else(|| "".into()), attribute, work)
}

fn join(value: &Value, glue: &Value, attribute: Option<Value>, work: &Work) -> Result<Value, Error> {
    let glue = python::text(glue, work)?;
    let mut out = String::new();
    if value.is_undefined() {
        return Ok(out.into());
    }
    for (index, item) in value.try_iter()?.enumerate() {
        let item = match &attribute {
            Some(name) => item.get_item(name)?,
            None => item,
        };
        let part = python::text(&item, work)?;
        work.charge(part.len().saturating_add(glue.len()))?;
        if index > 0 {
            out.push_str(&glue);
        }
        out.push_str(&part);
    }
    Ok(out.into())
}

/// Numbers only: a sum of texts or lists is a `join` or `+`.
fn sum(value: &Value, kwargs: &Kwargs, work: &Work) -> Result<Value, Error> {
    let attribute: Option<Value> = kwargs.get("attribute")?;
    let start: Option<Value> = kwargs.get("start")?;
    kwargs.assert_all_used()?;
    let mut numbers = vec![start.unwrap_or_else(|| 0.into())];
    for item in value.try_iter()? {
        work.charge(size_of::<Value>())?;
        numbers.push(match &attribute {
            Some(name) => item.get_item(name)?,
            None => item,
        });
    }
    if numbers
        .iter()
        .any(|n| !matches!(n.kind(), ValueKind::Number | ValueKind::Bool))
    {
        return Err(Error::new(ErrorKind::InvalidOperation, "sum wants numbers"));
    }
    BUILTIN.empty_state().apply_filter("sum", &[numbers.into()])
}

/// Python's methods on strings, maps and lists.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
    work: &Work,
) -> Result<Value, Error> {
    let text = |index: usize| args.get(index).and_then(|v| v.as_str()).unwrap_or_default();
    // Arguments are hashed and compared all the way down.
    args.iter().try_for_each(|arg| work.walk(arg))?;
    match (value.as_str(), name) {
        (Some(own), "replace") => work.charge(grown(own, text(0), text(1)))?,
        (Some(glue), "join") => {
            let list = args.first().cloned().unwrap_or_default();
            return join(&list, &glue.into(), None, work);
        }
        (Some(_), "format") => {
            return Err(Error::new(
                ErrorKind::UnknownMethod,
                "str.format is not supported in chat templates",
            ));
        }
        (Some(own), "removeprefix") => return Ok(own.strip_prefix(text(0)).unwrap_or(own).into()),
        (Some(own), "removesuffix") => return Ok(own.strip_suffix(text(0)).unwrap_or(own).into()),
        (Some(own), "upper" | "lower" | "title" | "capitalize") => {
            work.charge(own.len().saturating_mul(2))?
        }
        (None, "index" | "count") => work.walk(value)?,
        _ => {}
    }
    let made = pycompat::unknown_method_callback(state, value, name, args)?;
    work.charge_value(&made)?;
    Ok(made)
}
