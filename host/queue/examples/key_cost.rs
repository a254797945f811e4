//! What a key in the queue costs: memory beside its names, and the time of each step.
//!
//! `cargo run --release -p windlass-queue --example key_cost`

use std::num::NonZeroUsize;

use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::outcome::Next;
use windlass_core::ports::Sink as _;
use windlass_queue::{Config, Queue};

/// Resident bytes of this process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("a number of pages") * 4096
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // The most first: what was given back once is used again and would not be seen.
    for plugins in [1_000, 100, 1] {
        let queue = Queue::new(Config { per_plugin: NonZeroUsize::new(4), ..Config::default() });
        let n = 100_000;
        let names: Vec<_> =
            (0..plugins).map(|p| PluginName::try_new(&format!("p{p}")).expect("valid")).collect();
        let keys: Vec<_> = (0..n)
            .map(|k| Key::new(names[k % plugins].clone(), "namespace-7", format!("object-{k:08}")))
            .collect();
        let before = resident();
        let began = std::time::Instant::now();
        keys.iter().for_each(|key| queue.offer(key.clone()));
        let (offered, bytes) = (began.elapsed(), resident().saturating_sub(before) / n);
        let began = std::time::Instant::now();
        for _ in 0..n {
            queue.next().await.finish(Next::OnChange);
        }
        let worked = began.elapsed();
        println!(
            "{plugins} plugins, {n} keys: {bytes} bytes a key besides its names; offer {:?}, next and finish {:?}",
            offered / n as u32,
            worked / n as u32,
        );
    }
}
