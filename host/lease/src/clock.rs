//! CLOCK_BOOTTIME, read from the kernel.
//!
//! `std::time::Instant` stands still while a machine is suspended; a claim must not.

use windlass_core::claim::{BootClock, BootTime};

/// The kernel's clock that counts from boot, suspend included, untouched by wall time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Boottime;

impl BootClock for Boottime {
    fn now(&self) -> BootTime {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid timespec that outlives the call, which writes nothing else.
        #[allow(unsafe_code)]
        let code = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        // Fails only for an unknown clock or a bad address; Linux has had this one since 2.6.39.
        assert_eq!(code, 0, "CLOCK_BOOTTIME exists");
        let seconds = u64::try_from(time.tv_sec).expect("time since boot is not negative");
        let nanoseconds = u64::try_from(time.tv_nsec).expect("a part of a second is not negative");
        BootTime(seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_since_boot_does_not_run_backwards() {
        let first = Boottime.now();
        assert!(first.0 > 0);
        assert!(Boottime.now() >= first);
    }
}
