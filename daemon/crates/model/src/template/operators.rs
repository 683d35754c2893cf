//! Operators that can make large or deep values, with checks before they do.
//! Invariant: after `replace`, no instruction but a filter of this file joins, repeats, nests or compares containers.
//!
//! The engine has no hook for operators, so the compiled code is changed: an operator takes its operands from the
//! stack and leaves one value, as a filter does, and filters are ours.

use std::sync::Arc;

use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Rest, Tuple, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

use super::bounds::Work;
use super::python;

/// Filters are cached by number within one template; this number is never cached.
const NOT_CACHED: u8 = !0;

/// Puts a filter in the place of each such operator. No template can spell these names. Returns how many attributes
/// are assigned to.
pub(super) fn replace(code: &mut Instructions<'_>) -> usize {
    let mut assigned = 0;
    for index in 0.. {
        let Some(instruction) = code.get_mut(index) else {
            break;
        };
        let (name, operands) = match instruction {
            Instruction::Add => ("+", Some(2)),
            Instruction::Mul => ("*", Some(2)),
            Instruction::StringConcat => ("~", Some(2)),
            Instruction::Eq => ("==", Some(2)),
            Instruction::Ne => ("!=", Some(2)),
            Instruction::In => ("in", Some(2)),
            Instruction::BuildList(Some(n)) if *n > 0 && *n < 0xFFFF => ("[]", u16::try_from(*n).ok()),
            Instruction::BuildTuple(Some(n)) if *n > 0 && *n < 0xFFFF => ("()", u16::try_from(*n).ok()),
            Instruction::BuildMap(n) if *n > 0 && *n < 0x7FFF => ("{}", u16::try_from(*n * 2).ok()),
            Instruction::SetAttr(_) => {
                assigned += 1;
                continue;
            }
            _ => continue,
        };
        *instruction = Instruction::ApplyFilter(name, operands, NOT_CACHED);
    }
    assigned
}

/// Adds the filters that `replace` names.
pub(super) fn install(env: &mut Environment<'static>, work: &Arc<Work>) {
    let mut binary = |name: &'static str, run: fn(&Value, &Value, &Work) -> Result<Value, Error>| {
        let work = Arc::clone(work);
        env.add_filter(name, move |left: &Value, right: &Value| run(left, right, &work));
    };
    binary("+", add);
    binary("*", multiply);
    binary("~", concat);
    binary("==", |left, right, work| Ok(equal(left, right, work)?.into()));
    binary("!=", |left, right, work| Ok((!equal(left, right, work)?).into()));
    binary("in", contains);
    let mut build = |name: &'static str, run: fn(Vec<Value>) -> Value| {
        let work = Arc::clone(work);
        env.add_filter(name, move |items: Rest<Value>| -> Result<Value, Error> {
            // Before they become keys, which are hashed all the way down.
            items.iter().try_for_each(|item| work.walk_part(item))?;
            Ok(run(items.0))
        });
    };
    build("[]", Value::from);
    build("()", |items| Value::from(Tuple::from(items)));
    build("{}", |items| {
        let pairs = items
            .chunks_exact(2)
            .filter_map(|pair| Some((pair.first()?.clone(), pair.last()?.clone())));
        Value::from_pairs(pairs)
    });
}

enum Number {
    Int(i128),
    Float(f64),
}

fn number(value: &Value) -> Option<Number> {
    match value.kind() {
        ValueKind::Bool => Some(Number::Int(value.is_true().into())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Number::Int),
        ValueKind::Number => f64::try_from(value.clone()).ok().map(Number::Float),
        _ => None,
    }
}

fn arithmetic(
    left: &Value,
    right: &Value,
    ints: fn(i128, i128) -> Option<i128>,
    floats: fn(f64, f64) -> f64,
) -> Option<Value> {
    Some(match (number(left)?, number(right)?) {
        (Number::Int(a), Number::Int(b)) => {
            let value = ints(a, b)?;
            i64::try_from(value).map_or_else(|_| Value::from(value), Value::from)
        }
        (Number::Int(a), Number::Float(b)) => floats(a as f64, b).into(),
        (Number::Float(a), Number::Int(b)) => floats(a, b as f64).into(),
        (Number::Float(a), Number::Float(b)) => floats(a, b).into(),
    })
}

fn refuse(operator: &str, left: &Value, right: &Value) -> Error {
    let message = format!(
        "unsupported operands for {operator}: {} and {}",
        left.kind(),
        right.kind()
    );
    Error::new(ErrorKind::InvalidOperation, message)
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn add(left: &Value, right: &Value, work: &Work) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        work.charge(a.len().saturating_add(b.len()))?;
        return Ok(Value::from([a, b].concat()));
    }
    if is_list(left) && is_list(right) {
        let mut items = Vec::new();
        for item in left.try_iter()?.chain(right.try_iter()?) {
            work.charge(size_of::<Value>())?;
            items.push(item);
        }
        return Ok(if left.is_tuple() {
            Value::from(Tuple::from(items))
        } else {
            items.into()
        });
    }
    arithmetic(left, right, i128::checked_add, |a, b| a + b).ok_or_else(|| refuse("+", left, right))
}

fn multiply(left: &Value, right: &Value, work: &Work) -> Result<Value, Error> {
    let (many, times) = if number(left).is_some() {
        (right, left)
    } else {
        (left, right)
    };
    if let Some(Number::Int(times)) = number(times) {
        let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
        if let Some(text) = many.as_str() {
            work.charge(text.len().saturating_mul(times))?;
            // An empty text may be repeated any number of times for nothing.
            return Ok(if text.is_empty() {
                "".into()
            } else {
                text.repeat(times).into()
            });
        }
        if is_list(many) {
            let items: Vec<Value> = many.try_iter()?.collect();
            let count = items.len().saturating_mul(times);
            work.charge(count.saturating_mul(size_of::<Value>()))?;
            return Ok(items
                .into_iter()
                .cycle()
                .take(count)
                .collect::<Vec<Value>>()
                .into());
        }
    }
    arithmetic(left, right, i128::checked_mul, |a, b| a * b).ok_or_else(|| refuse("*", left, right))
}

/// `a ~ b`: both as text.
fn concat(left: &Value, right: &Value, work: &Work) -> Result<Value, Error> {
    let (left, right) = (python::text(left, work)?, python::text(right, work)?);
    work.charge(left.len().saturating_add(right.len()))?;
    Ok((left + &right).into())
}

/// Python's `==`; containers are paid for, since they may share parts many times over.
pub(super) fn equal(left: &Value, right: &Value, work: &Work) -> Result<bool, Error> {
    work.walk(left)?;
    work.walk(right)?;
    Ok(left == right)
}

fn contains(item: &Value, container: &Value, work: &Work) -> Result<Value, Error> {
    work.walk(item)?;
    if let Some(text) = container.as_str() {
        let Some(part) = item.as_str() else {
            let message = format!("'in' wants a string on its left, not {}", item.kind());
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        };
        return Ok(text.contains(part).into());
    }
    match container.kind() {
        ValueKind::Map => Ok(container.try_iter()?.any(|key| key == *item).into()),
        ValueKind::Undefined => Ok(false.into()),
        _ => {
            work.walk(container)?;
            Ok(container.try_iter()?.any(|other| other == *item).into())
        }
    }
}
