//! What polkit decides, at both doors, and the machine's sleep; with stand-ins for polkit and logind. Invariant: a denial
//! names the action and what to do, and a person is asked only where the caller allows it.
use super::{USERS, can_be_others};
use hyprstream_tests::bus::{NAME, PATH};
use hyprstream_tests::{Bus, Daemon, fixtures, program, wait, wire};
use rustix::process::getuid;
use serde_json::json;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

#[test]
fn polkit_decides_call_by_call() {
    let Some(bus) = Bus::start() else { return };
    if !can_be_others() {
        return;
    }
    let rules = json!({"org.hyprstream.use": "yes", "org.hyprstream.manage-models": "password", "org.hyprstream.install": "no"});
    let mut services = bus.services(&rules);
    let daemon = Daemon::on_bus(&bus, "");
    let mut caller = bus.caller_as(USERS[0]);
    let complete = json!(["tiny", [["user", "hi"]], {"max_tokens": 2}]);
    caller
        .daemon("Complete", "sa(ss)a{sv}", complete.clone())
        .unwrap();
    let question = services.await_question("org.hyprstream.use");
    assert_eq!(
        (&question["kind"], &question["interactive"]),
        (&json!("system-bus-name"), &json!(false))
    );
    assert_eq!(question["subject"]["name"], caller.name());

    let (error, message) = caller.daemon("Load", "s", json!(["tiny"])).unwrap_err();
    assert_eq!(error, "org.hyprstream.Error.Denied");
    assert!(
        message.contains("org.hyprstream.manage-models") && message.contains("password"),
        "{message}"
    );
    let (error, message) = caller.daemon("Delete", "s", json!(["tiny"])).unwrap_err();
    assert_eq!(error, "org.hyprstream.Error.Denied");
    assert!(message.contains("org.hyprstream.install"), "{message}");
    let (error, _) = caller
        .daemon(
            "Install",
            "hs",
            json!([{"file": bus.folder().join("config")}, "x"]),
        )
        .unwrap_err();
    assert_eq!(error, "org.hyprstream.Error.Denied");
    let (error, message) = caller.daemon("Reload", "", json!([])).unwrap_err();
    assert_eq!(error, "org.hyprstream.Error.Denied");
    assert!(message.contains("org.hyprstream.configure"), "{message}");

    // busctl lets polkit ask a person.
    let mut load = bus.command("busctl");
    load.uid(USERS[0]).gid(USERS[0]);
    load.arg(format!("--address={}", bus.address()));
    load.args(["call", NAME, PATH, NAME, "Load", "s", "tiny"]);
    program::run(&mut load).ok();
    wait::until("polkit was asked with leave to ask a person", || {
        let question = services.await_question("org.hyprstream.manage-models");
        (question["interactive"] == true).then_some(())
    });

    // The superuser is not asked about.
    bus.caller().daemon("Unload", "s", json!(["tiny"])).unwrap();
    // Without polkit, others may use and change nothing.
    drop(services);
    wait::until("polkit is gone", || {
        caller.daemon("Complete", "sa(ss)a{sv}", complete.clone()).ok()
    });
    let (error, message) = caller.daemon("Load", "s", json!(["tiny"])).unwrap_err();
    assert_eq!(error, "org.hyprstream.Error.Denied");
    assert!(message.contains("sudo"), "{message}");
    daemon.stop();
}

#[test]
fn who_may_not_even_use_is_told_so() {
    let Some(bus) = Bus::start() else { return };
    if !can_be_others() {
        return;
    }
    let _services = bus.services(&json!({"org.hyprstream.use": "password"}));
    let daemon = Daemon::on_bus(&bus, "");
    let mut caller = bus.caller_as(USERS[0]);
    for (member, signature, args) in [
        ("Generate", "ssa{sv}", json!(["tiny", "x", {}])),
        ("Chat", "sa(ss)a{sv}", json!(["tiny", [["user", "x"]], {}])),
        ("Complete", "sa(ss)a{sv}", json!(["tiny", [["user", "x"]], {}])),
        ("OpenSession", "sa{sv}", json!(["tiny", {}])),
    ] {
        let (error, message) = caller.daemon(member, signature, args).unwrap_err();
        assert_eq!(error, "org.hyprstream.Error.Denied", "{member}");
        assert!(message.contains("org.hyprstream.use"), "{message}");
    }
    assert!(caller.objects().keys().all(|path| path.contains("/models/")));
    daemon.stop();
}

#[test]
fn the_session_bus_has_one_user_and_asks_nobody() {
    let Some(bus) = Bus::start() else { return };
    if !can_be_others() {
        return;
    }
    let _services = bus.services(&json!({}));
    let daemon = Daemon::on_session_bus(&bus);
    let mut caller = bus.caller_as(USERS[0]);
    let job = caller.daemon("Load", "s", json!(["tiny"])).unwrap();
    caller.await_state(job[0].as_str().unwrap(), "done");
    daemon.stop();
}

#[test]
fn a_daemon_at_a_place_of_its_own_is_on_no_bus() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_address(&bus.address(), "");
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "2", "hello"])
        .ok();
    let (error, _) = bus.caller().daemon("Reload", "", json!([])).unwrap_err();
    assert_eq!(error, "org.freedesktop.DBus.Error.ServiceUnknown");
    daemon.stop();
}

#[test]
fn polkit_decides_at_the_unix_socket_too() {
    let Some(bus) = Bus::start() else { return };
    if !can_be_others() {
        return;
    }
    let mut services =
        bus.services(&json!({"org.hyprstream.install": "no", "org.hyprstream.manage-models": "yes"}));
    let daemon = Daemon::on_bus(&bus, "");
    fs::set_permissions(daemon.folder(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(daemon.socket(), Permissions::from_mode(0o666)).unwrap();
    let hyp = |args: &[&str]| {
        // The built program may lie where others do not get to.
        let program = bus.folder().join("hyp");
        if !program.exists() {
            fs::copy(program::built("hyp"), &program).unwrap();
        }
        let mut command = bus.command(program.to_str().unwrap());
        command.uid(USERS[0]).gid(USERS[0]);
        command.arg("--socket").arg(daemon.socket()).args(args);
        program::run(&mut command)
    };
    hyp(&["load", "tiny"]).ok();
    let question = services.await_question("org.hyprstream.manage-models");
    assert_eq!(
        (&question["kind"], &question["interactive"]),
        (&json!("unix-process"), &json!(false))
    );
    assert_eq!(question["subject"]["uid"], USERS[0].to_string());
    assert!(
        question["subject"]["start-time"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            > 0
    );
    let copy = bus.folder().join("copy.gguf");
    fs::copy(fixtures::tiny(), &copy).unwrap();
    for args in [&["delete", "tiny"][..], &["install", copy.to_str().unwrap()]] {
        let said = hyp(args).fails(8);
        assert!(said.contains("org.hyprstream.install"), "{said}");
    }
    assert!(fs::read_dir(daemon.models()).unwrap().count() == 1);
    hyp(&["ask", "-m", "tiny", "--max-tokens", "2", "hello"]).ok();
    daemon.stop();
}

#[test]
fn work_rests_while_the_machine_sleeps() {
    let Some(bus) = Bus::start() else { return };
    if !getuid().is_root() {
        return fixtures::skipped("D-Bus and sleep: only the superuser can stand in for logind");
    }
    let mut services = bus.services(&json!({}));
    let daemon = Daemon::on_bus(&bus, "");
    wait::until("logind is asked to wait", || (services.held() == 1).then_some(()));
    let body =
        json!({"model": "tiny", "prompt": "hello", "sampling": {"max_tokens": 3000, "ignore_eos": true}});
    let mut answer = wire::open(&daemon.socket(), "/hyprstream/v1/generate", &body);
    answer.await_event("token");
    // A signal from somebody who is not logind changes nothing.
    let mut stranger = bus.caller();
    stranger.daemon("Sing", "", json!([])).unwrap_err();

    services.tell("sleep");
    wait::until("the machine may sleep", || (services.held() == 0).then_some(()));
    let tokens = || {
        daemon
            .jobs()
            .first()
            .map(|job| job["completion_tokens"].as_u64().unwrap())
    };
    let before = tokens();
    assert!(before.is_some(), "the job waits");
    // Requests come in, and wait as well.
    let second = wire::open(
        &daemon.socket(),
        "/hyprstream/v1/generate",
        &json!({"model": "tiny", "prompt": "hello", "sampling": {"max_tokens": 1}}),
    );
    assert_eq!(second.status(), 200);
    assert_eq!(tokens(), before, "it computes in its sleep");
    services.tell("wake");
    wait::until("logind is asked to wait again", || {
        (services.held() == 1).then_some(())
    });
    answer.await_event("done");
    daemon.await_rest();
    daemon.stop();
}

#[test]
fn a_logind_that_comes_anew_is_asked_to_wait_anew() {
    let Some(bus) = Bus::start() else { return };
    if !getuid().is_root() {
        return fixtures::skipped("D-Bus and sleep: only the superuser can stand in for logind");
    }
    let mut services = bus.services(&json!({}));
    let daemon = Daemon::on_bus(&bus, "");
    wait::until("logind is asked to wait", || (services.held() == 1).then_some(()));
    drop(services);
    let mut services = bus.services(&json!({}));
    wait::until("the new one is asked", || (services.held() == 1).then_some(()));
    // One that dies while the machine is about to sleep leaves nobody asleep.
    services.tell("sleep");
    wait::until("the machine may sleep", || (services.held() == 0).then_some(()));
    drop(services);
    daemon
        .hyp(["ask", "-m", "tiny", "--max-tokens", "2", "hello"])
        .ok();
    let mut services = bus.services(&json!({}));
    wait::until("the third is asked", || (services.held() == 1).then_some(()));
    daemon.stop();
}
