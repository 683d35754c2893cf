//! Clients and buses that misbehave. Invariant: each costs itself alone; the daemon serves the others all the time.
use hyprstream_tests::bus::PATH;
use hyprstream_tests::{Bus, Caller, Daemon, wait};
use serde_json::json;
use std::fs;

/// Starts an answer without an end, and gives its stream and job.
fn endless(caller: &mut Caller, prompt: &str) -> (serde_json::Value, String) {
    let options = json!({"max_tokens": 100_000, "ignore_eos": true, "format": "events"});
    let reply = caller
        .daemon("Generate", "ssa{sv}", json!(["tiny", prompt, options]))
        .unwrap();
    (reply[0].clone(), reply[1].as_str().unwrap().to_owned())
}

fn serves(caller: &mut Caller) {
    let options = json!({"max_tokens": 2});
    caller
        .daemon(
            "Complete",
            "sa(ss)a{sv}",
            json!(["tiny", [["user", "hi"]], options]),
        )
        .unwrap();
}

#[test]
fn a_reader_that_closes_its_pipe_ends_its_job() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let mut caller = bus.caller();
    let (stream, job) = endless(&mut caller, "hello");
    caller.ask(&json!({"some": stream["fd"]})).unwrap();
    caller.ask(&json!({"close": stream["fd"]})).unwrap();
    caller.await_state(&job, "cancelled");
    daemon.await_rest();
    daemon.stop();
}

#[test]
fn a_reader_that_never_reads_is_given_up_and_holds_up_nobody() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "[limits]\nstall = \"500ms\"\n");
    let (mut deaf, mut other) = (bus.caller(), bus.caller());
    let (_stream, job) = endless(&mut deaf, "hello");
    serves(&mut other);
    deaf.await_state(&job, "cancelled");
    let error = deaf.get(&job, "org.hyprstream.Job1.Error").unwrap();
    assert!(error[1].as_str().unwrap().contains("read"), "{error}");
    daemon.await_rest();
    daemon.stop();
}

#[test]
fn a_caller_that_leaves_takes_its_jobs_and_sessions_along() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let (mut caller, mut other) = (bus.caller(), bus.caller());
    caller
        .daemon("OpenSession", "sa{sv}", json!(["tiny", {}]))
        .unwrap();
    endless(&mut caller, "hello");
    endless(&mut caller, "world");
    // The test's user is the superuser, or the same one: it sees them.
    let count = |other: &mut Caller| {
        let objects = other.objects();
        objects
            .keys()
            .filter(|path| path.contains("/jobs/") || path.contains("/sessions/"))
            .count()
    };
    assert_eq!(count(&mut other), 3);
    assert_eq!(daemon.jobs().len(), 2);
    caller.die();
    daemon.await_rest();
    wait::until("its objects are gone", || (count(&mut other) == 0).then_some(()));
    serves(&mut other);
    daemon.stop();
}

#[test]
fn a_flood_is_refused_by_name_while_others_are_served() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let (mut flooding, mut other) = (bus.caller(), bus.caller());
    serves(&mut other);
    let options = json!({"max_tokens": 20, "ignore_eos": true});
    let call = json!([
        PATH,
        "org.hyprstream.Daemon1",
        "Complete",
        "sa(ss)a{sv}",
        ["tiny", [["user", "hi"]], options]
    ]);
    let started = std::thread::spawn(move || {
        let seen = flooding
            .ask(&json!({"flood": call, "count": 2000, "timeout": 60}))
            .unwrap();
        (flooding, seen)
    });
    for _ in 0..5 {
        serves(&mut other);
    }
    let (_flooding, seen) = started.join().unwrap();
    let seen = seen.as_object().unwrap();
    let total: u64 = seen.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(total, 2000, "every call has one answer: {seen:?}");
    assert!(
        seen.keys().all(|name| [
            "ok",
            "org.hyprstream.Error.Busy",
            "org.freedesktop.DBus.Error.LimitsExceeded"
        ]
        .contains(&name.as_str())),
        "{seen:?}"
    );
    assert!(
        seen["ok"].as_u64().unwrap() > 0 && seen["org.hyprstream.Error.Busy"].as_u64().unwrap() > 0,
        "{seen:?}"
    );
    daemon.await_rest();
    assert!(!daemon.log().contains("panicked"));
    daemon.stop();
}

#[test]
fn a_daemon_that_stops_tells_how_its_jobs_ended() {
    let Some(bus) = Bus::start() else { return };
    let mut daemon = Daemon::on_bus(&bus, "[limits]\ndrain = \"200ms\"\n");
    let mut caller = bus.caller();
    let (_stream, job) = endless(&mut caller, "hello");
    daemon.signal(rustix::process::Signal::TERM);
    let last = caller.await_signal("PropertiesChanged", |signal| {
        signal["path"] == job.as_str() && signal["args"][1]["State"] == "failed"
    });
    assert_eq!(
        last["args"][1]["Error"][0], "org.hyprstream.Error.Stopping",
        "{last}"
    );
    assert_eq!(daemon.ended().code(), Some(0), "{}", daemon.log());
}

#[test]
fn hyp_lists_and_cancels_what_came_over_the_bus() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let mut caller = bus.caller();
    let (_stream, job) = endless(&mut caller, "hello");
    let id = job.rsplit('/').next().unwrap();
    assert_eq!(daemon.jobs()[0]["id"], id);
    // Its pipe is full, and nobody reads: that must not keep it from being ended.
    let mut before = None;
    wait::until("the pipe is full", || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        let now = daemon.jobs()[0]["completion_tokens"].as_u64();
        (before.replace(now) == Some(now) && now > Some(0)).then_some(())
    });
    daemon.hyp(["cancel", id]).ok();
    caller.await_state(&job, "cancelled");
    daemon.stop();
}

#[test]
fn forged_words_of_logind_change_nothing() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let _services = bus.services(&json!({"org.hyprstream.use": "yes"}));
    let mut caller = bus.caller();
    let forged = json!([
        "/org/freedesktop/login1",
        "org.freedesktop.login1.Manager",
        "PrepareForSleep",
        "b",
        [true]
    ]);
    for _ in 0..3 {
        caller.ask(&json!({"signals": forged, "count": 2000})).unwrap();
        let args = json!(["", [["user", "hello"]], {"max_tokens": 2}]);
        caller.daemon("Complete", "sa(ss)a{sv}", args).unwrap();
    }
    daemon.stop();
}

#[test]
fn a_user_with_too_many_connections_waits_and_another_does_not() {
    let Some(bus) = Bus::start() else { return };
    if !super::can_be_others() {
        return;
    }
    let daemon = Daemon::on_bus(&bus, "");
    let _services = bus.services(&json!({"org.hyprstream.use": "yes"}));
    let (mut crowding, mut other) = (bus.caller_as(super::USERS[0]), bus.caller_as(super::USERS[1]));
    let call = json!([PATH, "org.hyprstream.Daemon1", "OpenSession", "sa{sv}", ["tiny", {"top_k": 0}]]);
    let count = |seen: &serde_json::Value, name: &str| seen[name].as_u64().unwrap_or(0);
    let seen = crowding.ask(&json!({"crowd": call, "count": 80})).unwrap();
    // 32 sessions a user, then 32 connections that get no more, then those beyond 64.
    assert_eq!(
        (count(&seen, "ok"), count(&seen, "org.hyprstream.Error.Busy")),
        (32, 48),
        "{seen}"
    );
    serves(&mut other);
    // All are closed: there is room again.
    wait::until("there is room again", || {
        let seen = crowding.ask(&json!({"crowd": call, "count": 32})).unwrap();
        (count(&seen, "ok") == 32).then_some(())
    });
    daemon.stop();
}

#[test]
fn the_daemon_comes_back_to_a_bus_that_was_restarted() {
    let Some(mut bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let mut caller = bus.caller();
    endless(&mut caller, "hello");
    bus.down();
    drop(caller);
    // What came over it is gone with it; the socket never was.
    daemon.await_rest();
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "2", "hello"])
        .ok();
    bus.up();
    bus.await_name();
    let mut caller = bus.caller();
    serves(&mut caller);
    assert_eq!(
        caller
            .objects()
            .keys()
            .filter(|path| path.contains("/jobs/"))
            .count(),
        1
    );
    daemon.stop();
}

#[test]
fn without_a_bus_the_socket_serves_with_one_warning() {
    let config = "[dbus]\nbus = \"system\"\n";
    let folder = tempfile_free_path();
    // No bus is at this address, and no other is asked.
    let daemon = Daemon::on_address(&format!("unix:path={folder}"), config);
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "2", "hello"])
        .ok();
    wait::until("the warning", || {
        daemon
            .log()
            .contains("no service on the system bus")
            .then_some(())
    });
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "2", "hello"])
        .ok();
    assert_eq!(
        daemon.log().matches("no service on the system bus").count(),
        1,
        "{}",
        daemon.log()
    );
    daemon.stop();
}

fn tempfile_free_path() -> String {
    let folder = std::env::temp_dir().join(format!("hyprstream-no-bus-{}", std::process::id()));
    assert!(fs::symlink_metadata(&folder).is_err());
    folder.to_str().unwrap().to_owned()
}
