//! Opens bytes as a GGUF model. Invariant: it answers with a model or an error, never with a panic or a large allocation.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(model) = hyprstream_model::parse(bytes.to_vec()) else {
        return;
    };
    // What opened is whole: the forward pass relies on it.
    let weights = model.weights();
    assert_eq!(weights.layers.len(), model.config().layers);
    for m in weights
        .layers
        .iter()
        .flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down])
    {
        let len = m
            .format()
            .row_bytes(m.cols())
            .and_then(|row| row.checked_mul(m.rows()));
        assert_eq!(len, Some(m.as_ref().bytes.len()));
    }
    let frequencies = model
        .config()
        .rope
        .inverse_frequencies(weights.rope_factors.as_deref());
    assert!(frequencies.iter().all(|f| f.is_finite()));
});
