//! Every target over its corpus and over random changes of it: what CI runs on every change.
//! `WINDLASS_TEST_FULL=1` takes a hundred times as many.

use std::panic::catch_unwind;
use std::path::Path;

use windlass_fuzz::{Mutator, TARGETS, Target};

/// Changed inputs for each target.
fn rounds(ordinarily: usize) -> usize {
    let full = std::env::var_os("WINDLASS_TEST_FULL").is_some_and(|value| !value.is_empty() && value != "0");
    if full { ordinarily * 100 } else { ordinarily }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
    let files = std::fs::read_dir(&folder).expect("each target has a corpus").flatten();
    let mut files: Vec<_> = files.map(|file| file.path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("it can be read")).collect()
}

/// Runs one input; one that breaks a promise is kept beside the other artefacts of the build.
fn run(name: &str, target: Target, input: &[u8]) {
    if catch_unwind(|| target(input)).is_err() {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.failed"));
        std::fs::write(&kept, input).expect("there is room for one input");
        panic!("{name} does not hold for {}", kept.display());
    }
}

#[test]
fn every_target_holds_for_its_corpus_and_for_changes_of_it() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(corpus.len() >= 4, "{name} has a corpus of {}", corpus.len());
        corpus.iter().for_each(|input| run(name, *target, input));
        let mut mutator = Mutator::new(name.len() as u64);
        for _ in 0..rounds(3_000) {
            run(name, *target, &mutator.next_input(&corpus));
        }
    }
}
