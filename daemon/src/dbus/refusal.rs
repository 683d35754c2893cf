//! Errors as D-Bus has them: a name for programs, a sentence for people. Invariant: every code of the protocol has one
//! name, `org.hyprstream.Error.` and the code in camel case.
use crate::errors::Failure;
use crate::said::said;
use hyprstream_protocol::ErrorCode;

const PREFIX: &str = "org.hyprstream.Error.";

/// Why a call is not answered as its caller wished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The error's name.
    pub name: String,
    /// What happened and what to do.
    pub message: String,
}

impl Refusal {
    fn standard(name: &str, message: String) -> Refusal {
        Refusal {
            name: format!("org.freedesktop.DBus.Error.{name}"),
            message,
        }
    }

    /// Nothing is at this path, for this caller.
    pub fn unknown_object(path: &str) -> Refusal {
        Refusal::standard("UnknownObject", format!("there is no object {}", said(path)))
    }

    /// The object does not have this interface.
    pub fn unknown_interface(path: &str, interface: &str) -> Refusal {
        let (path, interface) = (said(path), said(interface));
        let message = format!("{path} has no interface {interface}; introspection shows those that it has");
        Refusal::standard("UnknownInterface", message)
    }

    /// The object does not have this method.
    pub fn unknown_method(path: &str, method: &str) -> Refusal {
        let (path, method) = (said(path), said(method));
        let message = format!("{path} has no such method {method}; introspection shows those that it has");
        Refusal::standard("UnknownMethod", message)
    }

    /// The object does not have this property.
    pub fn unknown_property(path: &str, property: &str) -> Refusal {
        let message = format!("{} has no property {}", said(path), said(property));
        Refusal::standard("UnknownProperty", message)
    }

    /// Nothing can be set.
    pub fn read_only(property: &str) -> Refusal {
        Refusal::standard("PropertyReadOnly", format!("{property} can only be read"))
    }

    /// The arguments are of other types.
    pub fn wrong_arguments(method: &str, wanted: &str, got: &str) -> Refusal {
        let message = format!("{method} takes ({wanted}), not ({got})");
        Refusal::standard("InvalidArgs", message)
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal {
            name: error_name(failure.0.code),
            message: failure.0.message,
        }
    }
}

/// The D-Bus name of a code: `bad_request` is `org.hyprstream.Error.BadRequest`.
pub fn error_name(code: ErrorCode) -> String {
    let mut name = PREFIX.to_owned();
    for word in code.as_str().split('_') {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn long_names_are_not_repeated() {
        let long = "x".repeat(100_000);
        for refusal in [
            Refusal::unknown_object(&long),
            Refusal::unknown_interface(&long, &long),
            Refusal::unknown_method(&long, &long),
            Refusal::unknown_property(&long, &long),
        ] {
            assert!(refusal.message.len() < 1000, "{}", refusal.name);
        }
    }

    #[test]
    fn every_code_has_a_name_that_the_bus_takes() {
        let names: HashSet<String> = ErrorCode::ALL.into_iter().map(error_name).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        for name in &names {
            zbus::names::ErrorName::try_from(name.as_str()).unwrap();
        }
        assert!(names.contains("org.hyprstream.Error.ModelNotFound"));
    }
}
