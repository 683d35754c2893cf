//! A small random model whose matrices have every quantised format. Invariant: on every instruction set, as prompt and as
//! answer, alone and in company, its logits are those of float32 transformers on the decoded weights, but for the rounding of
//! activations and of keys and values.
use crate::run::{Golden, logits_as, open, runner_on};
use hyprstream_kernels::{Isa, KvFormat, Pool};

/// Root of the mean square of the differences, as a part of that of the logits, where activations are int8 with one scale for
/// 32 or 256 of them. Seen: 0.0255.
const INT8_MAX: f64 = 0.03;
/// The same where they are bf16, as prompts have them with AMX. Seen: 0.0131, with keys and values of 8 bits.
const BF16_MAX: f64 = 0.016;

fn error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |v: f32| f64::from(v) * f64::from(v);
    let wrong: f64 = got.iter().zip(want).map(|(a, b)| square(a - b)).sum();
    let all: f64 = want.iter().map(|b| square(*b)).sum();
    (wrong / all).sqrt()
}

#[test]
fn every_format_on_every_instruction_set() {
    let golden = Golden::read("packed");
    let model = open(&golden.folder.join("model.gguf"));
    let (a, b) = (golden.sequences[0].as_slice(), golden.sequences[1].as_slice());
    for isa in Isa::ALL {
        if isa.or_lower() != isa {
            eprintln!("SKIPPED: this machine has no {isa:?}");
            continue;
        }
        for kv in [KvFormat::F32, KvFormat::F16, KvFormat::Q8] {
            for prefill in [true, false] {
                let limit = if prefill && isa == Isa::Amx {
                    BF16_MAX
                } else {
                    INT8_MAX
                };
                let mut runner = runner_on(&model, Pool::with_isa(2, isa).unwrap(), kv);
                let alone =
                    logits_as(&mut runner, &[a], &[if prefill { 1000 } else { 1 }], prefill).remove(0);
                let together = logits_as(&mut runner, &[a, b, a], &[5, 3, 1], prefill);
                let worst = [
                    error(&alone, &golden.logits[0]),
                    error(&together[1], &golden.logits[1]),
                ];
                for got in worst {
                    assert!(got < limit, "{isa:?}, {kv:?}, prefill {prefill}: off by {got}");
                }
                assert!(
                    together[0] == alone && together[2] == alone,
                    "{isa:?}, {kv:?}, prefill {prefill}: company changes the result"
                );
            }
        }
    }
}
