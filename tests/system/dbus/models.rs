//! Models over the bus: listed, installed, deleted, and what is told of it. Invariant: a file that is no model, or that did
//! not come whole, leaves nothing in the models folder.
use hyprstream_tests::bus::{NAME, PATH};
use hyprstream_tests::{Bus, Daemon, fixtures, wait, wire};
use serde_json::json;
use std::fs;
use std::io::Write;

fn files(daemon: &Daemon) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(daemon.models())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_model_that_comes_or_goes_is_an_object_that_does() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let mut caller = bus.caller();
    let tiny = &caller.objects()[&format!("{PATH}/models/tiny")]["org.hyprstream.Model1"];
    assert_eq!(
        (&tiny["Name"], &tiny["State"]),
        (&json!("tiny"), &json!("available"))
    );
    assert!(tiny["Size"].as_u64().unwrap() > 1000 && tiny["Context"].as_u64().unwrap() > 0);

    let file = fixtures::install(&fixtures::tiny(), &daemon.models(), "Other_one-2.gguf");
    let path = format!("{PATH}/models/Other_5fone_2d2");
    let added = caller.await_signal("InterfacesAdded", |signal| signal["args"][0] == path.as_str());
    assert_eq!(added["args"][1]["org.hyprstream.Model1"]["Name"], "Other_one-2");
    caller.await_signal("PropertiesChanged", |signal| {
        signal["path"] == PATH && signal["args"][1]["DefaultModel"] == "Other_one-2"
    });
    fs::remove_file(file).unwrap();
    caller.await_signal("InterfacesRemoved", |signal| signal["args"][0] == path.as_str());
    assert!(!caller.objects().contains_key(&path));
    daemon.stop();
}

#[test]
fn install_copies_checks_and_lists_and_delete_undoes_it() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let mut caller = bus.caller();
    let args = json!([{"file": fixtures::tiny()}, "team/copy"]);
    let reply = caller.daemon("Install", "hs", args.clone()).unwrap();
    let job = reply[0].as_str().unwrap();
    caller.await_state(job, "done");
    let result = caller.get(job, "org.hyprstream.Job1.Result").unwrap();
    assert_eq!(result["model"], "team/copy");
    let copy = daemon.models().join("team/copy.gguf");
    assert_eq!(fs::read(&copy).unwrap(), fs::read(fixtures::tiny()).unwrap());
    daemon
        .hyp(["ask", "-m", "team/copy", "--max-tokens", "2", "hello"])
        .ok();

    let (error, message) = caller.daemon("Install", "hs", args).unwrap_err();
    assert_eq!(error, "org.hyprstream.Error.BadRequest");
    assert!(message.contains("already"), "{message}");
    for near in ["team/cop", "TEAM/copy"] {
        let (error, message) = caller.daemon("Delete", "s", json!([near])).unwrap_err();
        assert_eq!(error, "org.hyprstream.Error.ModelNotFound");
        assert!(message.contains("did you mean team/copy?"), "{message}");
    }
    let handed = json!([{"file": fixtures::tiny()}]);
    let (error, message) = caller.daemon("Load", "h", handed).unwrap_err();
    assert_eq!(error, "org.hyprstream.Error.BadRequest");
    assert!(message.contains("only Install"), "{message}");
    let reply = caller.daemon("Delete", "s", json!(["team/copy"])).unwrap();
    caller.await_state(reply[0].as_str().unwrap(), "done");
    assert!(
        !copy.exists()
            && !caller
                .objects()
                .contains_key(&format!("{PATH}/models/team_2fcopy"))
    );
    daemon.stop();
}

#[test]
fn what_is_no_model_is_not_installed() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let mut caller = bus.caller();
    let before = files(&daemon);
    let junk = bus.folder().join("junk");
    fs::write(&junk, vec![7; 3 << 20]).unwrap();
    let reply = caller
        .daemon("Install", "hs", json!([{"file": junk}, "junk"]))
        .unwrap();
    let job = reply[0].as_str().unwrap();
    caller.await_state(job, "failed");
    let error = caller.get(job, "org.hyprstream.Job1.Error").unwrap();
    assert_eq!(error[0], "org.hyprstream.Error.ModelBroken", "{error}");
    let cut = bus.folder().join("cut");
    let whole = fs::read(fixtures::tiny()).unwrap();
    fs::write(&cut, &whole[..whole.len() - 1000]).unwrap();
    let reply = caller
        .daemon("Install", "hs", json!([{"file": cut}, "cut"]))
        .unwrap();
    caller.await_state(reply[0].as_str().unwrap(), "failed");
    for (args, word) in [
        (json!([{"pipe": true}, "x"]), "regular file"),
        (json!([{"file": junk}, "../x"]), "name"),
        (json!([{"file": junk}, ".hidden"]), "name"),
        (json!([{"file": junk}, ""]), "name"),
    ] {
        let (error, message) = caller.daemon("Install", "hs", args).unwrap_err();
        assert_eq!(error, "org.hyprstream.Error.BadRequest");
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(files(&daemon), before);
    daemon.stop();
}

#[test]
fn a_copy_whose_caller_leaves_or_cancels_leaves_no_file() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let before = files(&daemon);
    let large = bus.folder().join("large");
    // Holes cost no disk to read; the copy takes long enough to be stopped.
    fs::File::create(&large).unwrap().set_len(2 << 30).unwrap();
    let mut caller = bus.caller();
    let reply = caller
        .daemon("Install", "hs", json!([{"file": large}, "large"]))
        .unwrap();
    let job = reply[0].as_str().unwrap();
    assert_eq!(daemon.jobs()[0]["kind"], "install");
    caller
        .call(job, "org.hyprstream.Job1.Cancel", "", json!([]))
        .unwrap();
    caller.await_state(job, "cancelled");
    assert_eq!(files(&daemon), before);
    caller
        .daemon("Install", "hs", json!([{"file": large}, "large"]))
        .unwrap();
    caller.die();
    daemon.await_rest();
    assert_eq!(files(&daemon), before);
    daemon.stop();
}

#[test]
fn hyp_installs_and_deletes_over_the_socket() {
    let daemon = Daemon::tiny();
    let tiny = fixtures::tiny();
    daemon.hyp(["install", tiny.to_str().unwrap(), "x"]).ok();
    assert_eq!(
        fs::read(daemon.models().join("x.gguf")).unwrap(),
        fs::read(&tiny).unwrap()
    );
    daemon.hyp(["ask", "-m", "x", "--max-tokens", "2", "hello"]).ok();
    let said = daemon.hyp(["install", tiny.to_str().unwrap(), "x"]).fails(7);
    assert!(said.contains("already"), "{said}");
    let junk = daemon.folder().join("junk.gguf");
    fs::write(&junk, vec![7; 3 << 20]).unwrap();
    let said = daemon.hyp(["install", junk.to_str().unwrap()]).fails(6);
    assert!(said.contains("not installed"), "{said}");
    daemon.hyp(["delete", "X"]).fails(5);
    daemon.hyp(["delete", "x"]).ok();
    daemon.hyp(["delete", "x"]).fails(5);
    assert_eq!(files(&daemon), ["tiny.gguf"]);
    let starter = daemon.hyp(["delete", "hyprstream-starter"]);
    if fixtures::starter().is_some() {
        assert!(starter.fails(8).contains("came with"));
    }
    daemon.stop();
}

#[test]
fn an_upload_that_breaks_off_leaves_no_file() {
    let daemon = Daemon::tiny();
    let mut stream = wire::connect(&daemon.socket()).unwrap();
    let head = "PUT /hyprstream/v1/models/half HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![7; 4_000_000]).unwrap();
    wait::until("the copy is under way", || {
        (daemon.jobs().len() == 1).then_some(())
    });
    assert!(files(&daemon).iter().any(|name| name.ends_with(".part")));
    drop(stream);
    daemon.await_rest();
    assert_eq!(files(&daemon), ["tiny.gguf"]);
    daemon.stop();
}

#[test]
fn what_a_killed_daemon_left_is_swept_at_the_next_start() {
    let mut daemon = Daemon::tiny();
    let mut stream = wire::connect(&daemon.socket()).unwrap();
    let head = "PUT /hyprstream/v1/models/a/half HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![7; 2_000_000]).unwrap();
    wait::until("the copy is under way", || {
        (daemon.jobs().len() == 1).then_some(())
    });
    let folder = daemon.models().join("a");
    let left = || fs::read_dir(&folder).unwrap().count();
    assert_eq!(left(), 1);
    let packing = daemon.folder().join("cache/.1-1.packing");
    fs::write(&packing, "x").unwrap();
    let foreign = daemon.models().join(".notes.part");
    fs::write(&foreign, "x").unwrap();
    daemon.kill_and_start();
    wait::until("it is swept", || (left() == 0 && !packing.exists()).then_some(()));
    assert!(foreign.exists());
    assert!(daemon.log().contains("removed 1 files (") && daemon.log().contains("packed weights"));
    daemon.stop();
}

#[test]
fn what_introspection_shows_is_what_is_there() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let mut caller = bus.caller();
    let session = caller.daemon("OpenSession", "sa{sv}", json!(["", {}])).unwrap();
    let job = caller.daemon("Unload", "s", json!(["tiny"])).unwrap();
    let objects = [
        (PATH.to_owned(), NAME),
        (format!("{PATH}/models/tiny"), "org.hyprstream.Model1"),
        (session[0].as_str().unwrap().to_owned(), "org.hyprstream.Session1"),
        (job[0].as_str().unwrap().to_owned(), "org.hyprstream.Job1"),
    ];
    for (path, interface) in &objects {
        let introspect = "org.freedesktop.DBus.Introspectable.Introspect";
        let xml = caller.call(path, introspect, "", json!([])).unwrap()[0]
            .as_str()
            .unwrap()
            .to_owned();
        let shipped = fixtures::root().join(format!("packaging/dbus/{interface}.xml"));
        let shipped = fs::read_to_string(shipped).unwrap();
        let own = &shipped[shipped.find("  <interface").unwrap()..shipped.rfind("</node>").unwrap()];
        assert!(xml.contains(own), "{interface} differs from its file:\n{xml}");
        let all = caller
            .call(
                path,
                "org.freedesktop.DBus.Properties.GetAll",
                "s",
                json!([interface]),
            )
            .unwrap();
        let mut has: Vec<&String> = all[0].as_object().unwrap().keys().collect();
        let names = |tag: &str| -> Vec<String> {
            let start = format!("<{tag} name=\"");
            let parts = own.split(start.as_str()).skip(1);
            parts
                .map(|part| part.split('"').next().unwrap().to_owned())
                .collect()
        };
        let mut described = names("property");
        described.sort();
        has.sort();
        assert_eq!(has, described.iter().collect::<Vec<_>>(), "{interface}");
        // Every method is there: wrong arguments are what it complains about.
        for method in names("method") {
            let called = caller.call(path, &format!("{interface}.{method}"), "y", json!([7]));
            let (error, _) = called.unwrap_err();
            assert_eq!(
                error, "org.freedesktop.DBus.Error.InvalidArgs",
                "{interface}.{method}"
            );
        }
    }
    // From the root one finds the way down.
    let mut path = String::new();
    for part in PATH.split('/').skip(1) {
        let at = if path.is_empty() { "/" } else { &path };
        let xml = caller
            .call(
                at,
                "org.freedesktop.DBus.Introspectable.Introspect",
                "",
                json!([]),
            )
            .unwrap();
        assert!(
            xml[0]
                .as_str()
                .unwrap()
                .contains(&format!("<node name=\"{part}\"/>")),
            "{at}: {xml}"
        );
        path = format!("{path}/{part}");
    }
    daemon.stop();
}
