//! Two users on one bus. Invariant: what one has, the other neither sees, nor touches, nor hears of; the superuser does.
use super::{USERS, can_be_others};
use hyprstream_tests::bus::PATH;
use hyprstream_tests::{Bus, Caller, Daemon};
use serde_json::{Value, json};

fn private(objects: &serde_json::Map<String, Value>) -> Vec<&String> {
    let is_private = |path: &&String| path.contains("/jobs/") || path.contains("/sessions/");
    objects.keys().filter(is_private).collect()
}

fn same_words((name, message): (String, String), path: &str) -> (String, String) {
    (name, message.replace(path, "PATH"))
}

#[test]
fn one_user_can_neither_see_nor_touch_what_another_has() {
    let Some(bus) = Bus::start() else { return };
    if !can_be_others() {
        return;
    }
    let daemon = Daemon::on_bus(&bus, "");
    let (mut alice, mut bob) = (bus.caller_as(USERS[0]), bus.caller_as(USERS[1]));
    let session = alice
        .daemon("OpenSession", "sa{sv}", json!(["tiny", {}]))
        .unwrap()[0]
        .clone();
    let options = json!({"max_tokens": 100_000, "ignore_eos": true});
    let reply = alice
        .daemon("Generate", "ssa{sv}", json!(["tiny", "hello", options]))
        .unwrap();
    let (session, job) = (session.as_str().unwrap(), reply[1].as_str().unwrap());
    assert_eq!(alice.get(job, "org.hyprstream.Job1.Owner").unwrap(), USERS[0]);

    assert_eq!(private(&alice.objects()).len(), 2);
    assert_eq!(private(&bob.objects()), [""; 0]);
    let introspect = |caller: &mut Caller, path: &str| {
        caller.call(
            path,
            "org.freedesktop.DBus.Introspectable.Introspect",
            "",
            json!([]),
        )
    };
    for folder in ["jobs", "sessions"] {
        let xml = introspect(&mut bob, &format!("{PATH}/{folder}")).unwrap();
        assert!(!xml[0].as_str().unwrap().contains("<node name"), "{xml}");
    }
    // To the letter what is said of an object that never was.
    for (path, method, signature, args) in [
        (job, "org.hyprstream.Job1.Cancel", "", json!([])),
        (
            job,
            "org.freedesktop.DBus.Properties.GetAll",
            "s",
            json!(["org.hyprstream.Job1"]),
        ),
        (
            job,
            "org.freedesktop.DBus.Properties.Get",
            "ss",
            json!(["org.hyprstream.Job1", "State"]),
        ),
        (
            job,
            "org.freedesktop.DBus.Introspectable.Introspect",
            "",
            json!([]),
        ),
        (job, "org.freedesktop.DBus.Peer.Ping", "", json!([])),
        (session, "org.hyprstream.Session1.Ask", "sa{sv}", json!(["x", {}])),
        (session, "org.hyprstream.Session1.Close", "", json!([])),
        (session, "org.hyprstream.Session1.Sing", "", json!([])),
    ] {
        let theirs = bob.call(path, method, signature, args.clone()).unwrap_err();
        let nobodys = format!("{}/0123456789abcdef", path.rsplit_once('/').unwrap().0);
        let none = bob.call(&nobodys, method, signature, args).unwrap_err();
        assert_eq!(theirs.0, "org.freedesktop.DBus.Error.UnknownObject");
        assert_eq!(same_words(theirs, path), same_words(none, &nobodys), "{method}");
    }
    alice.await_signal("PropertiesChanged", |signal| signal["path"] == job);
    // The superuser sees and may end it; a second connection of the same user sees it too.
    assert_eq!(private(&bus.caller().objects()).len(), 2);
    let mut second = bus.caller_as(USERS[0]);
    second
        .call(job, "org.hyprstream.Job1.Cancel", "", json!([]))
        .unwrap();
    alice.await_state(job, "cancelled");
    alice
        .call(session, "org.hyprstream.Session1.Close", "", json!([]))
        .unwrap();
    alice.await_signal("InterfacesRemoved", |signal| signal["args"][0] == session);
    // Bob heard of models alone.
    bob.daemon("Sing", "", json!([])).unwrap_err();
    let heard = bob.signals();
    assert!(
        heard.iter().all(
            |signal| !signal.to_string().contains("/jobs/") && !signal.to_string().contains("/sessions/")
        ),
        "{heard:?}"
    );
    assert!(
        heard
            .iter()
            .any(|signal| signal["path"] == format!("{PATH}/models/tiny")),
        "bob hears nothing: {heard:?}"
    );
    daemon.stop();
}

#[test]
fn nobody_else_can_be_the_daemon() {
    let Some(bus) = Bus::start() else { return };
    if !can_be_others() {
        return;
    }
    let mut caller = bus.caller_as(USERS[0]);
    let request = json!({"call": ["/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName", "su", ["org.hyprstream.Daemon1", 0]], "to": "org.freedesktop.DBus"});
    let (error, _) = caller.ask(&request).unwrap_err();
    assert_eq!(error, "org.freedesktop.DBus.Error.AccessDenied");
}
