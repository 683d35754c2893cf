//! Reads bytes as every request of the protocol. Invariant: what was understood is still understood after it was written
//! again.
#![no_main]

use hyprstream_protocol as protocol;
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

fuzz_target!(|bytes: &[u8]| {
    again::<protocol::ChatRequest>(bytes);
    again::<protocol::GenerateRequest>(bytes);
    again::<protocol::LoadRequest>(bytes);
    again::<protocol::UnloadRequest>(bytes);
    again::<protocol::TokenizeRequest>(bytes);
    again::<protocol::DetokenizeRequest>(bytes);
    again::<protocol::ScoreRequest>(bytes);
});

fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(request) = serde_json::from_slice::<T>(bytes) else {
        return;
    };
    let written = serde_json::to_vec(&request).expect("what was read can be written");
    serde_json::from_slice::<T>(&written).expect("what was written can be read");
}
