//! The floor under every call to another process: a byte through a socket pair to somebody who sleeps, and back.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::apart::Apart;

/// Microseconds that each of some round trips took, sorted, with a pause before each so that everybody sleeps. Where the host
/// has processors of its own ([`Apart`]), on those.
///
/// # Errors
/// If there is no socket pair, or no thread.
pub(crate) fn hops(count: usize, pause: Duration) -> Result<Vec<f64>> {
    let measure = move || {
        Apart::join_the_host()?;
        let (mut near, mut far) = UnixStream::pair().context("make a socket pair")?;
        // Inherits the processors of this thread. Ends when `near` is dropped.
        let echo = std::thread::spawn(move || {
            let mut byte = [0];
            while far.read_exact(&mut byte).is_ok() && far.write_all(&byte).is_ok() {}
        });
        let mut took = Vec::with_capacity(count);
        for _ in 0..count {
            std::thread::sleep(pause);
            let began = Instant::now();
            near.write_all(&[1]).context("send a byte")?;
            near.read_exact(&mut [0]).context("get a byte back")?;
            took.push(began.elapsed().as_secs_f64() * 1e6);
        }
        drop(near);
        echo.join().ok().context("the echo panicked")?;
        took.sort_by(f64::total_cmp);
        Ok(took)
    };
    std::thread::spawn(measure).join().ok().context("the thread that measures panicked")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hop_is_timed_and_they_are_sorted() {
        let took = hops(5, Duration::from_millis(1)).expect("a socket pair");
        assert_eq!(took.len(), 5);
        assert!(took[0] > 0.0 && took.is_sorted(), "{took:?}");
    }
}
