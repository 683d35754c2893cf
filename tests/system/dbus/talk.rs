//! Asking over the bus: streams, whole texts, sessions, jobs. Invariant: what comes is what the socket gives for the same
//! request.
use hyprstream_tests::bus::{NAME, PATH};
use hyprstream_tests::{Bus, Daemon};
use serde_json::{Value, json};

const JOB: &str = "org.hyprstream.Job1";

fn over_the_socket(daemon: &Daemon) -> String {
    let body = json!({"model": "tiny", "prompt": "hello", "sampling": {"max_tokens": 8, "temperature": 0}});
    let reply = daemon.post("/hyprstream/v1/generate", &body);
    let events = reply.lines();
    let tokens = events.iter().filter(|event| event["event"] == "token");
    tokens
        .map(|token| token["text"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn streams_have_the_text_or_the_events_of_the_socket() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let expected = over_the_socket(&daemon);
    let mut caller = bus.caller();
    let options = json!({"max_tokens": 8, "temperature": 0.0});
    let reply = caller
        .daemon("Generate", "ssa{sv}", json!(["tiny", "hello", options]))
        .unwrap();
    assert_eq!(caller.read(&reply[0]), expected);
    let job = reply[1].as_str().unwrap();
    caller.await_state(job, "done");
    let result = caller.get(job, &format!("{JOB}.Result")).unwrap();
    assert_eq!(
        (&result["completion_tokens"], &result["finish_reason"]),
        (&json!(8), &json!("length"))
    );
    assert_eq!(caller.get(job, &format!("{JOB}.Progress")).unwrap(), 1.0);
    assert_eq!(caller.get(job, &format!("{JOB}.Error")).unwrap(), json!(["", ""]));

    let options = json!({"max_tokens": 8, "temperature": 0.0, "format": "events"});
    let reply = caller
        .daemon("Generate", "ssa{sv}", json!(["", "hello", options]))
        .unwrap();
    let lines = caller.read(&reply[0]);
    let events: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let id = reply[1].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    assert!(
        events
            .iter()
            .any(|event| event["event"] == "started" && event["id"] == id.as_str()),
        "{lines}"
    );
    assert_eq!(events.last().unwrap()["event"], "done");
    daemon.stop();
}

#[test]
fn a_job_tells_its_caller_how_it_goes() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let mut caller = bus.caller();
    let reply = caller.daemon("Load", "s", json!(["tiny"])).unwrap();
    let job = reply[0].as_str().unwrap().to_owned();
    caller.await_signal("InterfacesAdded", |signal| signal["args"][0] == job.as_str());
    caller.await_signal("PropertiesChanged", |signal| {
        signal["path"] == job.as_str() && signal["args"][1]["State"] == "done"
    });
    let model = format!("{PATH}/models/tiny");
    caller.await_signal("PropertiesChanged", |signal| {
        signal["path"] == model.as_str() && signal["args"][1]["State"] == "loaded"
    });
    assert_eq!(caller.get(&job, &format!("{JOB}.Kind")).unwrap(), "load");
    let reply = caller.daemon("Unload", "s", json!(["tiny"])).unwrap();
    let job = reply[0].as_str().unwrap().to_owned();
    caller.await_state(&job, "done");
    caller.await_signal("PropertiesChanged", |signal| {
        signal["path"] == model.as_str() && signal["args"][1]["State"] == "available"
    });
    daemon.stop();
}

#[test]
fn complete_gives_the_whole_text() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let mut caller = bus.caller();
    let options = json!({"max_tokens": 6, "temperature": 0.0});
    let args = json!(["tiny", [["user", "hello"]], options]);
    let reply = caller.daemon("Complete", "sa(ss)a{sv}", args.clone()).unwrap();
    assert_eq!(reply[1]["completion_tokens"], 6);
    let chat = caller.daemon("Chat", "sa(ss)a{sv}", args).unwrap();
    assert_eq!(caller.read(&chat[0]), reply[0].as_str().unwrap());
    daemon.stop();
}

#[test]
fn a_session_remembers_and_answers_one_question_at_a_time() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let mut caller = bus.caller();
    let options = json!({"max_tokens": 4, "temperature": 0.0, "system": "be kind"});
    let reply = caller
        .daemon("OpenSession", "sa{sv}", json!(["tiny", options]))
        .unwrap();
    let session = reply[0].as_str().unwrap().to_owned();
    let ask = |caller: &mut hyprstream_tests::Caller, text: &str, options: Value| {
        caller.call(
            &session,
            "org.hyprstream.Session1.Ask",
            "sa{sv}",
            json!([text, options]),
        )
    };
    let first = ask(&mut caller, "hello", json!({})).unwrap();
    let said = caller.read(&first[0]);
    caller.await_signal("PropertiesChanged", |signal| signal["args"][1]["Turns"] == 1);
    let second = ask(&mut caller, "and you", json!({})).unwrap();
    let continued = caller.read(&second[0]);
    // The same talk in one call.
    let turns = json!([
        ["system", "be kind"],
        ["user", "hello"],
        ["assistant", said],
        ["user", "and you"]
    ]);
    let whole = json!(["tiny", turns, {"max_tokens": 4, "temperature": 0.0}]);
    assert_eq!(
        caller.daemon("Complete", "sa(ss)a{sv}", whole).unwrap()[0],
        continued.as_str()
    );

    let endless = json!({"max_tokens": 100000, "ignore_eos": true});
    let long = ask(&mut caller, "more", endless).unwrap();
    let (error, message) = ask(&mut caller, "too early", json!({})).unwrap_err();
    assert_eq!(error, "org.hyprstream.Error.Busy", "{message}");
    caller
        .call(
            long[1].as_str().unwrap(),
            "org.hyprstream.Job1.Cancel",
            "",
            json!([]),
        )
        .unwrap();
    caller.await_state(long[1].as_str().unwrap(), "cancelled");
    assert_eq!(caller.get(&session, "org.hyprstream.Session1.Turns").unwrap(), 2);
    caller
        .call(&session, "org.hyprstream.Session1.Close", "", json!([]))
        .unwrap();
    let (error, _) = ask(&mut caller, "gone", json!({})).unwrap_err();
    assert_eq!(error, "org.freedesktop.DBus.Error.UnknownObject");
    daemon.await_rest();
    daemon.stop();
}

#[test]
fn errors_have_the_names_of_their_codes_and_say_what_to_do() {
    let Some(bus) = Bus::start() else { return };
    let daemon = Daemon::on_bus(&bus, "");
    let mut caller = bus.caller();
    let generate = |caller: &mut hyprstream_tests::Caller, model: &str, prompt: &str, options: Value| {
        caller
            .daemon("Generate", "ssa{sv}", json!([model, prompt, options]))
            .unwrap_err()
    };
    let (name, message) = generate(&mut caller, "gpt-9", "x", json!({}));
    assert_eq!(name, "org.hyprstream.Error.ModelNotFound");
    assert!(message.contains("gpt-9"), "{message}");
    let (name, message) = generate(&mut caller, "tiny", "x", json!({"temprature": 1.0}));
    assert_eq!(name, "org.hyprstream.Error.BadRequest");
    assert!(
        message.contains("temprature") && message.contains("temperature"),
        "{message}"
    );
    let (name, message) = generate(&mut caller, "tiny", "x", json!({"top_p": 7.0}));
    assert_eq!(name, "org.hyprstream.Error.BadRequest");
    assert!(message.contains("top_p"), "{message}");
    // With the model in memory, the length is known at once.
    daemon.hyp(["load", "tiny"]).ok();
    let (name, message) = generate(&mut caller, "tiny", &"hello ".repeat(30_000), json!({}));
    assert_eq!(name, "org.hyprstream.Error.ContextExceeded", "{message}");
    let (name, message) = generate(&mut caller, "tiny", &"x".repeat(9 << 20), json!({}));
    assert_eq!(name, "org.hyprstream.Error.TooLarge", "{message}");
    let (name, message) = caller.daemon("Generate", "s", json!(["tiny"])).unwrap_err();
    assert_eq!(name, "org.freedesktop.DBus.Error.InvalidArgs");
    assert!(message.contains("ssa{sv}"), "{message}");
    let (name, _) = caller.daemon("Sing", "", json!([])).unwrap_err();
    assert_eq!(name, "org.freedesktop.DBus.Error.UnknownMethod");
    let (name, message) = caller
        .daemon("Complete", "sa(ss)a{sv}", json!(["tiny", [["king", "x"]], {}]))
        .unwrap_err();
    assert_eq!(name, "org.hyprstream.Error.BadRequest");
    assert!(message.contains("king"), "{message}");
    let errors = caller.get(PATH, &format!("{NAME}.Errors")).unwrap();
    assert!(
        errors
            .as_array()
            .unwrap()
            .contains(&json!("org.hyprstream.Error.Busy")),
        "{errors}"
    );
    daemon.stop();
}
