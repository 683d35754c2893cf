//! Small random models of every architecture and rope scaling. Invariant: safetensors and GGUF hold the same numbers,
//! so both must give the logits of transformers.
use crate::run::{Golden, LOGIT_ABS_MAX, distance, logits, open, runner};

/// Every position of both sequences: alone whole and in chunks, together in step and out of step, and with strangers.
fn check(name: &str, file: &str) {
    let golden = Golden::read(&format!("archs/{name}"));
    let model = open(&golden.folder.join(file));
    let mut runner = runner(&model, 2);
    let expect = |got: &[f32], index: usize, how: &str| {
        let worst = distance(got, &golden.logits[index]);
        assert!(
            worst <= LOGIT_ABS_MAX,
            "{name}/{file}, sequence {index}, {how}: off by {worst}"
        );
    };
    let (a, b) = (golden.sequences[0].as_slice(), golden.sequences[1].as_slice());
    for (index, tokens) in [a, b].into_iter().enumerate() {
        for chunk in [1000, 1, 7, 32, 33] {
            expect(
                &logits(&mut runner, &[tokens], &[chunk])[0],
                index,
                &format!("alone in chunks of {chunk}"),
            );
        }
    }
    for chunks in [[1000, 1000], [1, 1], [1, 1000], [7, 3], [32, 5]] {
        let got = logits(&mut runner, &[a, b], &chunks);
        expect(&got[0], 0, &format!("together in chunks of {chunks:?}"));
        expect(&got[1], 1, &format!("together in chunks of {chunks:?}"));
    }
    let stranger: Vec<u32> = a.iter().rev().copied().collect();
    let many = [&stranger, a, &stranger[..5], b, a, &stranger[..1]];
    let got = logits(&mut runner, &many, &[3, 11, 1, 1000, 1, 1]);
    for (slot, index) in [(1, 0), (3, 1), (4, 0)] {
        expect(&got[slot], index, "among strangers");
    }
}

macro_rules! archs {
    ($($test:ident = $folder:literal;)*) => {
        $(mod $test {
            #[test]
            fn safetensors() {
                super::check($folder, "hf");
            }
            #[test]
            fn gguf() {
                super::check($folder, "model.gguf");
            }
        })*

        #[test]
        fn every_folder_is_checked() {
            let mut found: Vec<String> = std::fs::read_dir(super::run::root().join("tests/golden/archs"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            assert_eq!(found, [$($folder),*]);
        }
    };
}

archs! {
    llama = "llama";
    llama_linear = "llama-linear";
    llama_yarn = "llama-yarn";
    llama3_rope = "llama3-rope";
    mistral = "mistral";
    qwen2 = "qwen2";
    qwen3 = "qwen3";
}
